// Writes down what it hears, a line each, in the words of `Statuses`, and passes it on.

import java.io.FileWriter;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;
import org.apache.flink.types.Row;

public final class Heard extends AbstractStreamOperator implements OneInputStreamOperator {
    private final String path;
    private transient FileWriter lines;

    /** references[0]: the file. */
    public Heard(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        path = (String) references[0];
    }

    public void open() throws Exception {
        super.open();
        lines = new FileWriter(path);
    }

    public void close() throws Exception {
        lines.close();
        super.close();
    }

    public void processElement(StreamRecord record) throws Exception {
        Object value = record.getValue();
        lines.write(value instanceof Row ? (String) ((Row) value).getField(0) : new String((byte[]) value));
        lines.write('\n');
        output.collect(record);
    }

    public void processWatermark(Watermark mark) throws Exception {
        lines.write("wm " + mark.getTimestamp() + '\n');
        super.processWatermark(mark);
    }

    public void processWatermarkStatus(WatermarkStatus status) throws Exception {
        lines.write(status.isIdle() ? "idle\n" : "active\n");
        super.processWatermarkStatus(status);
    }
}
