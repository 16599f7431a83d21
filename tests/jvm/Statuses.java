// Rows of one text in. "idle" and "active" become a watermark status, and "wm 5" a watermark; other
// rows go on as they are.

import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;
import org.apache.flink.table.data.RowData;

public final class Statuses extends AbstractStreamOperator implements OneInputStreamOperator {
    public Statuses(
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
        String line = ((RowData) record.getValue()).getString(0).toString();
        if (line.equals("idle")) {
            output.emitWatermarkStatus(WatermarkStatus.IDLE);
        } else if (line.equals("active")) {
            output.emitWatermarkStatus(WatermarkStatus.ACTIVE);
        } else if (line.startsWith("wm ")) {
            output.emitWatermark(new Watermark(Long.parseLong(line.substring(3))));
        } else {
            output.collect(record);
        }
    }
}
