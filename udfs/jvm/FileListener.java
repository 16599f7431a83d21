// Who else is told of the files of a table that became visible: CommitFiles does it, before _SUCCESS.
// No imports: this is put behind the operator that uses it, in one compilation unit.

abstract class FileListener {
    /** name: of a class that is in the same compilation unit. */
    static FileListener named(String name) throws Exception {
        return (FileListener) FileListener.class.getClassLoader().loadClass(name).newInstance();
    }

    /**
     * Comes once, before all else, when what an earlier attempt had to make visible is so.
     * rows: the RowType, whose last columns are the partition; how many those are.
     */
    abstract void open(
            org.apache.flink.core.fs.Path folder,
            org.apache.flink.table.types.logical.RowType rows,
            int partitionColumns)
            throws Exception;

    /**
     * files: messages of ParquetFiles; visible now. checkpoint: the one that has completed. again: an
     * earlier attempt may have come as far as here with them.
     */
    abstract void add(java.util.List files, long checkpoint, boolean again) throws Exception;
}
