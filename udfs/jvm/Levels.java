// How much is waiting in the keys of one subtask: pending requests, by deadline, and held actions.
// Gauges of it, and of the largest key. No imports: this is put behind the operator that uses it.
//
// It is counted by key group and kept in union list state, so it is right after a restore too, at any
// parallelism: each subtask takes the counts of the key groups that it has now. The largest key is not
// kept: it is known again as soon as it is looked at.

final class Levels {
    private static final long NEVER = Long.MIN_VALUE;
    /** What is kept: the span, then triples of these. `TIME` is NEVER for held actions. */
    private static final int TIME = 0, GROUP = 1, COUNT = 2, SIZE = 3;

    private final int allGroups, firstGroup, groups;
    private final org.apache.flink.api.common.state.ListState kept;
    private final boolean uncounted;
    /** Deadlines are told apart by so many ms. */
    private long span;
    /** Beginning of a span of deadlines: pending requests by key group, and at the end all of them. */
    private final java.util.TreeMap pending = new java.util.TreeMap();
    private final int[] held;

    /** What the gauges show, for other threads. */
    volatile long pendingRequests, heldActions;
    private final Moment oldestDeadline = new Moment();
    private final Largest largestKey = new Largest();

    /** spanMs: how exactly deadlines are told apart, if the restored state does not say it. */
    Levels(
            org.apache.flink.runtime.state.StateInitializationContext context,
            org.apache.flink.api.common.TaskInfo task,
            long spanMs)
            throws Exception {
        allGroups = task.getMaxNumberOfParallelSubtasks();
        org.apache.flink.runtime.state.KeyGroupRange own =
                org.apache.flink.runtime.state.KeyGroupRangeAssignment
                        .computeKeyGroupRangeForOperatorIndex(
                                allGroups,
                                task.getNumberOfParallelSubtasks(),
                                task.getIndexOfThisSubtask());
        firstGroup = own.getStartKeyGroup();
        groups = own.getNumberOfKeyGroups();
        held = new int[groups];
        span = spanMs;
        kept =
                context.getOperatorStateStore()
                        .getUnionListState(
                                new org.apache.flink.api.common.state.ListStateDescriptor(
                                        "levels-v1",
                                        org.apache.flink.api.common.typeutils.base.array
                                                .LongPrimitiveArraySerializer.INSTANCE));
        boolean found = false;
        for (java.util.Iterator all = ((Iterable) kept.get()).iterator(); all.hasNext(); ) {
            long[] of = (long[]) all.next();
            // Before the counts: deadlines are found again by the spans that they were counted in.
            span = of[0];
            found = true;
            for (int i = 1; i < of.length; i += SIZE) {
                int group = (int) of[i + GROUP] - firstGroup;
                if (group >= 0 && group < groups) {
                    count(of[i + TIME], group, (int) of[i + COUNT]);
                }
            }
        }
        uncounted = context.isRestored() && !found;
        publish();
    }

    /** The restored state is of a release that did not count: `add` is to be told of every key. */
    boolean uncounted() {
        return uncounted;
    }

    void show(org.apache.flink.metrics.MetricGroup metrics) {
        metrics.gauge(
                "pending_requests",
                new org.apache.flink.metrics.Gauge() {
                    public Object getValue() {
                        return Long.valueOf(pendingRequests);
                    }
                });
        metrics.gauge(
                "held_actions",
                new org.apache.flink.metrics.Gauge() {
                    public Object getValue() {
                        return Long.valueOf(heldActions);
                    }
                });
        metrics.gauge("oldest_deadline_ms", oldestDeadline);
        metrics.gauge("largest_key", largestKey);
    }

    /** What Python says of a key (udfs/core/join_batches.py): pending [deadline, by], held by. */
    void add(Packed in, Object key) {
        int n = in.array();
        int group = -1;
        for (int i = 0; i < n; i++) {
            if (group < 0) {
                group = groupOf(key);
            }
            in.array();
            long deadline = in.integer();
            count(Math.floorDiv(deadline, span) * span, group, (int) in.integer());
        }
        int by = (int) in.integer();
        if (by != 0) {
            count(NEVER, group < 0 ? groupOf(key) : group, by);
        }
    }

    /** To the gauges. */
    void publish() {
        oldestDeadline.set(
                pending.isEmpty() ? Moment.NONE : ((Long) pending.firstKey()).longValue());
    }

    /** elements: of the largest key of a batch; 0: it had no large one. */
    void largest(long elements) {
        largestKey.set(elements);
    }

    void snapshot() throws Exception {
        java.util.List triples = new java.util.ArrayList();
        for (java.util.Iterator all = pending.entrySet().iterator(); all.hasNext(); ) {
            java.util.Map.Entry entry = (java.util.Map.Entry) all.next();
            append(triples, ((Long) entry.getKey()).longValue(), (int[]) entry.getValue());
        }
        append(triples, NEVER, held);
        long[] now = new long[1 + triples.size()];
        now[0] = span;
        for (int i = 0; i < triples.size(); i++) {
            now[1 + i] = ((Long) triples.get(i)).longValue();
        }
        kept.update(java.util.Collections.singletonList(now));
    }

    private void append(java.util.List to, long time, int[] counts) {
        for (int group = 0; group < groups; group++) {
            if (counts[group] != 0) {
                to.add(Long.valueOf(time));
                to.add(Long.valueOf(firstGroup + group));
                to.add(Long.valueOf(counts[group]));
            }
        }
    }

    private int groupOf(Object key) {
        return org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignToKeyGroup(
                        key, allGroups)
                - firstGroup;
    }

    private void count(long time, int group, int by) {
        if (time == NEVER) {
            held[group] += by;
            heldActions += by;
            return;
        }
        pendingRequests += by;
        Long beginning = Long.valueOf(time);
        int[] counts = (int[]) pending.get(beginning);
        if (counts == null) {
            counts = new int[groups + 1];
            pending.put(beginning, counts);
        }
        counts[group] += by;
        counts[groups] += by;
        if (counts[groups] == 0) {
            pending.remove(beginning);
        }
    }
}
