// Table rows in; one call of Python for many of them; (key, packed event) out.
//
// Python is asked by `run(batch)`, which returns a reply, and by `more()` as long as a reply says that
// there is more; udfs/core/decode_batches.py says what is in both. A batch ends when it is large, when
// it is old, before a watermark or a checkpoint, and at the end of the input.
//
// A source that has no watermark of its own gets it from the events: each may carry a clock. (Flink's
// own generators of the DataStream API emit by the wall clock, and the outcome of a bounded run must
// not depend on that.)

import org.apache.flink.api.common.operators.ProcessingTimeService.ProcessingTimeCallback;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.operators.python.embedded.AbstractEmbeddedPythonFunctionOperator;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;
import org.apache.flink.table.data.RowData;
import org.apache.flink.types.Row;

public final class RecordBatches extends AbstractEmbeddedPythonFunctionOperator
        implements OneInputStreamOperator, ProcessingTimeCallback {
    private final Hosted hosted;
    private final String types;
    private final boolean byClock;

    private transient Reports reports;
    private transient Packing batch;
    private transient Packing records;
    private transient int count;
    /** The latest clock of an event; the watermark is 1 ms behind it. */
    private transient long reached;

    /**
     * references: see Hosted; then a letter for each column of the rows (see `field`); "clock" if the
     * watermark is that of the events, else "source".
     */
    public RecordBatches(
            Object[] references,
            StreamTask task,
            StreamConfig streamConfig,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        super((Configuration) references[0]);
        hosted = new Hosted(references);
        types = (String) references[hosted.end];
        byClock = "clock".equals(references[hosted.end + 1]);
        setup(task, streamConfig, output);
        setProcessingTimeService(processingTime);
    }

    public void open() throws Exception {
        batch = new Packing();
        records = new Packing();
        reports = hosted.reports(getMetricGroup());
        super.open();
    }

    public void openPythonInterpreter() {
        hosted.open(interpreter, null);
    }

    public void close() throws Exception {
        if (reports != null) {
            reports.close(getRuntimeContext());
        }
        super.close();
    }

    public void processElement(StreamRecord record) throws Exception {
        RowData row = (RowData) record.getValue();
        records.array(types.length());
        for (int i = 0; i < types.length(); i++) {
            if (row.isNullAt(i)) {
                records.nil();
            } else {
                field(row, i);
            }
        }
        count++;
        if (hosted.full(count, records.at)) {
            flush();
        } else {
            hosted.wake(getProcessingTimeService(), this);
        }
    }

    /** s: text; b: bytes; i: int; l: long; t: timestamp, as epoch ms. */
    private void field(RowData row, int i) {
        switch (types.charAt(i)) {
            case 's':
                records.utf8(row.getString(i).toBytes());
                break;
            case 'b':
                byte[] bytes = row.getBinary(i);
                records.binary(bytes, 0, bytes.length);
                break;
            case 'i':
                records.integer(row.getInt(i));
                break;
            case 'l':
                records.integer(row.getLong(i));
                break;
            case 't':
                records.integer(row.getTimestamp(i, 3).getMillisecond());
                break;
            default:
                throw new IllegalArgumentException("no such type: " + types.charAt(i));
        }
    }

    public void onProcessingTime(long time) throws Exception {
        hosted.woken();
        flush();
    }

    public void processWatermark(Watermark mark) throws Exception {
        flush();
        // of the source's own, only the last counts where events carry the clock
        if (!byClock || mark.getTimestamp() == Long.MAX_VALUE) {
            output.emitWatermark(mark);
        }
    }

    public void processWatermarkStatus(WatermarkStatus status) throws Exception {
        flush();
        super.processWatermarkStatus(status);
    }

    public void prepareSnapshotPreBarrier(long checkpoint) throws Exception {
        flush();
        super.prepareSnapshotPreBarrier(checkpoint);
    }

    public void finish() throws Exception {
        flush();
        super.finish();
    }

    private void flush() throws Exception {
        if (count == 0) {
            return;
        }
        batch.clear();
        batch.array(count);
        batch.raw(records.bytes, 0, records.at);
        records.clear();
        count = 0;
        boolean more = perform((byte[]) interpreter.invokeMethod("host", "run", batch.copy()));
        while (more) {
            more = perform((byte[]) interpreter.invokeMethod("host", "more"));
        }
    }

    /** The reply: [whether there is more, events: [key, event, clock], reports]. */
    private boolean perform(byte[] reply) throws Exception {
        Packed in = new Packed(reply);
        in.array();
        boolean more = in.bool();
        int n = in.array();
        for (int i = 0; i < n; i++) {
            in.array();
            Row row = new Row(2);
            row.setField(0, in.string());
            row.setField(1, in.packed());
            long clock = in.integer();
            output.collect(new StreamRecord(row));
            if (clock > reached) {
                reached = clock;
                output.emitWatermark(new Watermark(clock - 1L));
            }
        }
        reports.perform(in, output);
        return more;
    }
}
