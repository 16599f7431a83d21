// What an operator in front of the join holds back until its turn comes, as state: rows of key, packed
// event, place and clock. No imports: this is put behind the operator that uses it, in one compilation
// unit.

final class HeldRows {
    static final int KEY = 0, EVENT = 1, PLACE = 2, CLOCK = 3;

    private HeldRows() {}

    /** Of union list state: each subtask takes its own of it (`own`). */
    static org.apache.flink.api.common.state.ListStateDescriptor descriptor(String name) {
        return new org.apache.flink.api.common.state.ListStateDescriptor(
                name,
                new org.apache.flink.api.java.typeutils.runtime.RowSerializer(
                        new org.apache.flink.api.common.typeutils.TypeSerializer[] {
                            org.apache.flink.api.common.typeutils.base.StringSerializer.INSTANCE,
                            org.apache.flink.api.common.typeutils.base.array.BytePrimitiveArraySerializer
                                    .INSTANCE,
                            org.apache.flink.api.common.typeutils.base.LongSerializer.INSTANCE,
                            org.apache.flink.api.common.typeutils.base.LongSerializer.INSTANCE
                        }));
    }

    /** What arrived as (key, packed event, place), with the clock as its time. */
    static org.apache.flink.types.Row of(
            org.apache.flink.streaming.runtime.streamrecord.StreamRecord record) {
        org.apache.flink.types.Row arrived = (org.apache.flink.types.Row) record.getValue();
        org.apache.flink.types.Row row = new org.apache.flink.types.Row(4);
        row.setField(KEY, arrived.getField(KEY));
        row.setField(EVENT, arrived.getField(EVENT));
        row.setField(PLACE, arrived.getField(PLACE));
        row.setField(CLOCK, Long.valueOf(record.getTimestamp()));
        return row;
    }

    /**
     * Of the rows that all subtasks had kept those with keys of this one, in their order, whatever the
     * parallelism was. A beacon is for all of them, under a key that begins with `beacon`.
     */
    static java.util.List own(
            Iterable kept, String beacon, org.apache.flink.api.common.TaskInfo task) {
        String ownKey = OwnKeys.first(beacon, task);
        java.util.List own = new java.util.ArrayList();
        for (java.util.Iterator all = kept.iterator(); all.hasNext(); ) {
            org.apache.flink.types.Row row = (org.apache.flink.types.Row) all.next();
            String key = (String) row.getField(KEY);
            if (key.startsWith(beacon)) {
                row.setField(KEY, ownKey);
                own.add(row);
            } else if (OwnKeys.has(key, task)) {
                own.add(row);
            }
        }
        return own;
    }
}
