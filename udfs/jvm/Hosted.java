// What the operators that call Python in batches have in common: the host that they ask, when a batch
// ends, and what a reply may say beside its main output. No imports: this is put behind the operator
// that uses it, in one compilation unit.

final class Hosted {
    /** Where the operator's own references begin. */
    final int end;
    private final byte[] host;
    private final int maxSteps, maxBytes;
    private final long maxMs;
    private final String counters;
    private final org.apache.flink.util.OutputTag[] tags;
    private final String[] tagTypes;

    /** Whether a timer is set that will end the batch. */
    private boolean waiting = false;

    /**
     * references: Python's configuration, which is the operator's; the pickled host; steps, bytes and
     * ms that a batch takes at most; names of counters; for each side output the types of its
     * columns; then the side outputs' tags; then the operator's own.
     */
    Hosted(Object[] references) {
        host = (byte[]) references[1];
        maxSteps = Integer.parseInt((String) references[2]);
        maxBytes = Integer.parseInt((String) references[3]);
        maxMs = Long.parseLong((String) references[4]);
        counters = (String) references[5];
        String types = (String) references[6];
        tagTypes = types.isEmpty() ? new String[0] : types.split(" ");
        tags = new org.apache.flink.util.OutputTag[tagTypes.length];
        for (int i = 0; i < tags.length; i++) {
            tags[i] = (org.apache.flink.util.OutputTag) references[7 + i];
        }
        end = 7 + tags.length;
    }

    Reports reports(org.apache.flink.metrics.MetricGroup metrics) {
        return new Reports(metrics, counters, tags, tagTypes);
    }

    /** `host` in the interpreter: see udfs.operators.hosting. reader: null if it needs none. */
    void open(pemja.core.PythonInterpreter interpreter, Object reader) {
        interpreter.set("pickled_host", host);
        interpreter.set("reader", reader);
        interpreter.exec(
                "from udfs.operators.hosting import opened\n"
                        + "host = opened(pickled_host, reader)\n"
                        + "del pickled_host, reader");
    }

    boolean full(int steps, int bytes) {
        return steps >= maxSteps || bytes >= maxBytes;
    }

    /** No step waits for longer than `maxMs`: `late` is called by then, and is to call `woken`. */
    void wake(
            org.apache.flink.streaming.runtime.tasks.ProcessingTimeService time,
            org.apache.flink.api.common.operators.ProcessingTimeService.ProcessingTimeCallback late) {
        if (!waiting) {
            waiting = true;
            time.registerTimer(time.getCurrentProcessingTime() + maxMs, late);
        }
    }

    void woken() {
        waiting = false;
    }
}
