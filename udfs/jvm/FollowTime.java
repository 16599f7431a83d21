// (key, event, clock) in; (key, event) out, and a watermark of clock - 1 whenever the clock moves.
//
// Flink's own watermark generators of the DataStream API emit by the wall clock, and the outcome of a
// bounded run must not depend on that.

import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.types.Row;

public final class FollowTime extends AbstractStreamOperator implements OneInputStreamOperator {
    private long reached = 0L;

    public FollowTime(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
    }

    public void processElement(StreamRecord record) throws Exception {
        Row in = (Row) record.getValue();
        Row row = new Row(2);
        row.setField(0, in.getField(0));
        row.setField(1, in.getField(1));
        long clock = ((Long) in.getField(2)).longValue();
        output.collect(record.replace(row));
        if (clock > reached) {
            reached = clock;
            output.emitWatermark(new Watermark(clock - 1L));
        }
    }

    /** The watermarks of the source are dropped, except the last one, which ends the input. */
    public void processWatermark(Watermark mark) throws Exception {
        if (mark.getTimestamp() == Long.MAX_VALUE) {
            super.processWatermark(mark);
        }
    }
}
