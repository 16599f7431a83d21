// Opens the table over samples/ as a job does at its start, without a job: `jobs.backfill.iceberg`.

public final class OpenTable {
    /** rows: the columns of samples, dt and hr at their end. */
    public static void open(String folder, org.apache.flink.table.types.logical.RowType rows)
            throws Exception {
        FileListener.named("IcebergTable")
                .open(new org.apache.flink.core.fs.Path(folder), rows, 2);
    }
}
