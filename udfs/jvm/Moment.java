// A time as a gauge, in epoch ms: NaN (no value) as long as there is none. No imports: this is put behind
// the operator that uses it. Written by the task's thread, read by those of reporters.

final class Moment implements org.apache.flink.metrics.Gauge {
    static final long NONE = Long.MIN_VALUE;
    private volatile long time = NONE;

    /** The end of the input (the greatest time) is no moment that people could use. */
    void set(long ms) {
        if (ms != Long.MAX_VALUE) {
            time = ms;
        }
    }

    public Object getValue() {
        long ms = time;
        return Double.valueOf(ms == NONE ? Double.NaN : (double) ms);
    }
}
