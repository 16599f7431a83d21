// How the files of a table are named, written, read, and spoken of between the operators of the sink.
// No imports: this is put behind the operator that uses it, in one compilation unit.
//
//   part-<run>-<after>-<subtask>-<attempt>-<number>.parquet     what a writer has finished
//   .uncompacted-part-…                                         the same, to be compacted: hidden
//   compacted-part-….parquet                                    made of one or several of those
//
// <run> is of one start of a job (_runs.jsonl); <after> is the number of the checkpoint that the file
// was begun after: by these two jobs/pipeline/newer_rows.py tells whether a snapshot has its rows.
//
// A message is a Row: the partition, the path of the file when it is visible, its size, what is needed
// to make it visible (null: renaming its one input does it, see renames), and the files that it was compacted from
// (null: none).

final class ParquetFiles {
    static final String SUFFIX = ".parquet";
    private static final String UNCOMPACTED = ".uncompacted-", COMPACTED = "compacted-";
    private static final String NO_PARTITION = "__DEFAULT_PARTITION__";
    private static final int BATCH = 2048;
    /** File systems on which a rename happens at once or not at all. */
    private static final java.util.List RENAMING =
            java.util.Arrays.asList(
                    new String[] {"file", "hdfs", "viewfs", "webhdfs", "abfs", "abfss"});

    private final org.apache.flink.core.fs.Path folder;
    private final String run;
    private final boolean compact;
    private final long fileSize;
    private final String compression;
    private final org.apache.flink.table.types.logical.RowType rows;
    private final int partitionColumns;

    /** The partition columns of the last row, and its partition. */
    private org.apache.flink.table.data.StringData[] last;
    private String lastPartition;

    /**
     * references: the folder; what names this run; whether to compact; the size (bytes) at which a
     * file is finished; the compression; the RowType of the rows, whose last columns are the
     * partition; how many those are.
     */
    ParquetFiles(Object[] references) {
        folder = new org.apache.flink.core.fs.Path((String) references[0]);
        run = (String) references[1];
        compact = references[2].equals("true");
        fileSize = Long.parseLong((String) references[3]);
        compression = (String) references[4];
        rows = (org.apache.flink.table.types.logical.RowType) references[5];
        partitionColumns = Integer.parseInt((String) references[6]);
    }

    /** The index of a column, or -1. */
    int column(String name) {
        return rows.getFieldIndex(name);
    }

    /** With the partition columns at their end. */
    org.apache.flink.table.types.logical.RowType rows() {
        return rows;
    }

    int partitionColumns() {
        return partitionColumns;
    }

    boolean compact() {
        return compact;
    }

    /**
     * Whether a file can be made visible by renaming it. In an object store a rename is a copy and a
     * deletion, and a crash in between leaves both.
     */
    boolean renames() {
        String scheme = folder.toUri().getScheme();
        return scheme == null || RENAMING.contains(scheme);
    }

    long fileSize() {
        return fileSize;
    }

    // -- names -------------------------------------------------------------------------------------

    /** Of a row: dt=…/hr=…/, escaped where a path needs it. */
    String partition(org.apache.flink.table.data.RowData row) {
        int first = rows.getFieldCount() - partitionColumns;
        boolean same = last != null;
        for (int i = 0; same && i < partitionColumns; i++) {
            same = java.util.Objects.equals(text(row, first + i), last[i]);
        }
        if (same) {
            return lastPartition;
        }
        // texts of a row may be overwritten by the next one, so they are copied
        last = new org.apache.flink.table.data.StringData[partitionColumns];
        java.util.LinkedHashMap values = new java.util.LinkedHashMap();
        for (int i = 0; i < partitionColumns; i++) {
            org.apache.flink.table.data.StringData value = text(row, first + i);
            String name = value == null ? "" : value.toString();
            last[i] =
                    value == null
                            ? null
                            : org.apache.flink.table.data.binary.BinaryStringData.fromString(
                                    name);
            values.put(
                    rows.getFieldNames().get(first + i), name.isEmpty() ? NO_PARTITION : name);
        }
        lastPartition = org.apache.flink.table.utils.PartitionPathUtils.generatePartitionPath(values);
        return lastPartition;
    }

    private static org.apache.flink.table.data.StringData text(
            org.apache.flink.table.data.RowData row, int column) {
        return row.isNullAt(column) ? null : row.getString(column);
    }

    org.apache.flink.core.fs.Path part(
            String partition, long after, int subtask, String attempt, int number) {
        String name = "part-" + run + "-" + after + "-" + subtask + "-" + attempt + "-" + number;
        return new org.apache.flink.core.fs.Path(
                new org.apache.flink.core.fs.Path(folder, partition),
                compact ? UNCOMPACTED + name : name + SUFFIX);
    }

    static org.apache.flink.core.fs.Path compacted(org.apache.flink.core.fs.Path first) {
        String name = first.getName().substring(UNCOMPACTED.length());
        return new org.apache.flink.core.fs.Path(first.getParent(), COMPACTED + name + SUFFIX);
    }

    /** The number of the checkpoint that a visible file was begun after. */
    static long after(org.apache.flink.core.fs.Path file) {
        String name = file.getName();
        return Long.parseLong(name.substring(name.indexOf("part-")).split("-")[2]);
    }

    // -- messages ----------------------------------------------------------------------------------

    static org.apache.flink.types.Row message(
            String partition,
            org.apache.flink.core.fs.Path file,
            long size,
            byte[] token,
            String[] inputs) {
        org.apache.flink.types.Row message = new org.apache.flink.types.Row(5);
        message.setField(0, partition);
        message.setField(1, file.toString());
        message.setField(2, Long.valueOf(size));
        message.setField(3, token);
        message.setField(4, inputs);
        return message;
    }

    static String partition(org.apache.flink.types.Row message) {
        return (String) message.getField(0);
    }

    static org.apache.flink.core.fs.Path file(org.apache.flink.types.Row message) {
        return new org.apache.flink.core.fs.Path((String) message.getField(1));
    }

    static long size(org.apache.flink.types.Row message) {
        return ((Long) message.getField(2)).longValue();
    }

    static byte[] token(org.apache.flink.types.Row message) {
        return (byte[]) message.getField(3);
    }

    static String[] inputs(org.apache.flink.types.Row message) {
        return (String[]) message.getField(4);
    }

    /** As sinks.py declares it for the streams of messages. */
    static org.apache.flink.api.common.typeutils.TypeSerializer messageSerializer() {
        return new org.apache.flink.api.java.typeutils.runtime.RowSerializer(
                new org.apache.flink.api.common.typeutils.TypeSerializer[] {
                    org.apache.flink.api.common.typeutils.base.StringSerializer.INSTANCE,
                    org.apache.flink.api.common.typeutils.base.StringSerializer.INSTANCE,
                    org.apache.flink.api.common.typeutils.base.LongSerializer.INSTANCE,
                    org.apache.flink.api.common.typeutils.base.array.BytePrimitiveArraySerializer
                            .INSTANCE,
                    org.apache.flink.api.common.typeutils.base.array.StringArraySerializer.INSTANCE
                });
    }

    /** What it takes to make a finished file visible later, from any process. */
    static byte[] token(
            org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter writers,
            Object pending)
            throws java.io.IOException {
        return org.apache.flink.core.io.SimpleVersionedSerialization.writeVersionAndSerialize(
                writers.getProperties().getPendingFileRecoverableSerializer(), pending);
    }

    static org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter.PendingFile pending(
            org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter writers,
            byte[] token)
            throws java.io.IOException {
        return pendingFile(writers, recoverable(writers, token));
    }

    /** The other way of `token`. */
    static Object recoverable(
            org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter writers,
            byte[] token)
            throws java.io.IOException {
        return org.apache.flink.core.io.SimpleVersionedSerialization.readVersionAndDeSerialize(
                writers.getProperties().getPendingFileRecoverableSerializer(), token);
    }

    /** Of a finished file. An object store may have done it, and its answer was lost: then it looks. */
    static void makeVisible(
            org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter writers,
            Object pending)
            throws java.io.IOException {
        try {
            pendingFile(writers, pending).commit();
        } catch (java.io.IOException e) {
            pendingFile(writers, pending).commitAfterRecovery();
        }
    }

    static org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter.PendingFile
            pendingFile(
                    org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter writers,
                    Object pending)
                    throws java.io.IOException {
        return writers.recoverPendingFile(
                (org.apache.flink.streaming.api.functions.sink.filesystem.InProgressFileWriter
                                .PendingFileRecoverable)
                        pending);
    }

    // -- Parquet -----------------------------------------------------------------------------------

    /** What writes files of this table; raw, for Janino knows no generics. Rows may have the partition
     * columns at their end, or not. */
    org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter writers()
            throws java.io.IOException {
        org.apache.flink.streaming.api.functions.sink.filesystem.legacy.StreamingFileSink
                        .BucketsBuilder
                bulk =
                        org.apache.flink.streaming.api.functions.sink.filesystem.legacy
                                .StreamingFileSink.forBulkFormat(
                                folder,
                                new org.apache.flink.formats.parquet.ParquetWriterFactory(
                                        new ParquetRows.Files(columns(), compression)));
        return bulk.createBucketWriter();
    }

    org.apache.flink.connector.file.table.stream.compact.CompactReader.Factory readers() {
        return org.apache.flink.connector.file.table.stream.compact.CompactBulkReader.factory(
                org.apache.flink.formats.parquet.ParquetColumnarRowInputFormat
                        .createPartitionedFormat(
                                new org.apache.hadoop.conf.Configuration(),
                                columns(),
                                org.apache.flink.table.runtime.typeutils.InternalTypeInfo.of(
                                        columns()),
                                java.util.Collections.emptyList(),
                                null,
                                BATCH,
                                true,
                                true));
    }

    private org.apache.flink.table.types.logical.RowType columns() {
        return new org.apache.flink.table.types.logical.RowType(
                new java.util.ArrayList(
                        rows.getFields().subList(0, rows.getFieldCount() - partitionColumns)));
    }
}
