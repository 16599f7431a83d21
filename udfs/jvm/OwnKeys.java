// Which keys of a keyed stream Flink gives to a subtask. No imports: this is put behind the operator that
// uses it, in one compilation unit.

final class OwnKeys {
    private OwnKeys() {}

    static boolean has(String key, org.apache.flink.api.common.TaskInfo task) {
        org.apache.flink.types.Row row = new org.apache.flink.types.Row(1);
        row.setField(0, key);
        return org.apache.flink.runtime.state.KeyGroupRangeAssignment.assignKeyToParallelOperator(
                        row,
                        task.getMaxNumberOfParallelSubtasks(),
                        task.getNumberOfParallelSubtasks())
                == task.getIndexOfThisSubtask();
    }

    /** The first key of the subtask that is `prefix` with a number behind it. */
    static String first(String prefix, org.apache.flink.api.common.TaskInfo task) {
        for (int i = 0; ; i++) {
            String key = prefix + i;
            if (has(key, task)) {
                return key;
            }
        }
    }
}
