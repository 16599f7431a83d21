// What the operators that call Python in batches, and know no keys, have in common: rows in, one call of
// Python for many of them. Python is asked by `run(batch)`, which returns a reply, and by `more()` as long
// as a reply says that there is more. A batch ends when it is large, when it is old, before a watermark
// or a checkpoint, and at the end of the input. No imports: this is put behind the operator that extends
// it, in one compilation unit.

abstract class UnkeyedBatches
        extends org.apache.flink.streaming.api.operators.python.embedded.AbstractEmbeddedPythonFunctionOperator
        implements org.apache.flink.streaming.api.operators.OneInputStreamOperator,
                org.apache.flink.api.common.operators.ProcessingTimeService.ProcessingTimeCallback {
    protected final Hosted hosted;
    protected transient Reports reports;
    private transient Packing batch;
    private transient Packing steps;
    private transient int count;

    /** references: see Hosted; then the operator's own. */
    UnkeyedBatches(
            Object[] references,
            org.apache.flink.streaming.runtime.tasks.StreamTask task,
            org.apache.flink.streaming.api.graph.StreamConfig streamConfig,
            org.apache.flink.streaming.api.operators.Output output,
            org.apache.flink.streaming.runtime.tasks.ProcessingTimeService processingTime)
            throws Exception {
        super((org.apache.flink.configuration.Configuration) references[0]);
        hosted = new Hosted(references);
        setup(task, streamConfig, output);
        setProcessingTimeService(processingTime);
    }

    /** Packs a row for Python. */
    abstract void add(org.apache.flink.table.data.RowData row, Packing to);

    /** Does what a reply says; returns whether there is more. */
    abstract boolean perform(byte[] reply) throws Exception;

    public void open() throws Exception {
        batch = new Packing();
        steps = new Packing();
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

    public void processElement(org.apache.flink.streaming.runtime.streamrecord.StreamRecord record)
            throws Exception {
        add((org.apache.flink.table.data.RowData) record.getValue(), steps);
        count++;
        if (hosted.full(count, steps.at)) {
            flush();
        } else {
            hosted.wake(getProcessingTimeService(), this);
        }
    }

    public void onProcessingTime(long time) throws Exception {
        hosted.woken();
        flush();
    }

    public void processWatermark(org.apache.flink.streaming.api.watermark.Watermark mark) throws Exception {
        flush();
        output.emitWatermark(mark);
    }

    public void processWatermarkStatus(
            org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus status) throws Exception {
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

    final void flush() throws Exception {
        if (count == 0) {
            return;
        }
        batch.clear();
        batch.array(count);
        batch.raw(steps.bytes, 0, steps.at);
        steps.clear();
        count = 0;
        boolean more = perform((byte[]) interpreter.invokeMethod("host", "run", batch.copy()));
        while (more) {
            more = perform((byte[]) interpreter.invokeMethod("host", "more"));
        }
    }
}
