// Drives Largest for tests/flink/test_largest.py.

public final class LargestAt {
    /** What the gauge says at a time, after what was set: [number, time (ms)] each. */
    public static long said(java.util.List set, Long time) {
        Largest gauge = new Largest();
        for (int i = 0; i < set.size(); i++) {
            java.util.List one = (java.util.List) set.get(i);
            gauge.set(((Number) one.get(0)).longValue(), ((Number) one.get(1)).longValue());
        }
        return gauge.at(time.longValue());
    }
}
