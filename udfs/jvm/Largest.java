// The greatest number that was set within the last one to two minutes, as a gauge; 0 if none was. No
// imports: this is put behind the operator that uses it. Written by the task's thread, read by those
// of reporters.

final class Largest implements org.apache.flink.metrics.Gauge {
    private static final long MINUTE = 60000L;

    /** The beginning of the minute that `now` is of, and the greatest of it and of the one before. */
    private volatile long minute;
    private volatile long now, before;

    void set(long number) {
        if (number > 0L) { // most often it is not, and the clock is not looked at
            set(number, System.currentTimeMillis());
        }
    }

    void set(long number, long time) {
        long at = time / MINUTE * MINUTE;
        if (at != minute) {
            before = at == minute + MINUTE ? now : 0L;
            now = 0L;
            minute = at;
        }
        if (number > now) {
            now = number;
        }
    }

    public Object getValue() {
        return Long.valueOf(at(System.currentTimeMillis()));
    }

    /** By the clock, so that it goes down when nothing comes any more. */
    long at(long time) {
        long passed = time / MINUTE * MINUTE - minute;
        if (passed <= 0L) {
            return Math.max(now, before);
        }
        return passed == MINUTE ? now : 0L;
    }
}
