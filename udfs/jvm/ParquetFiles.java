// How the files of a table are named, written and read. No imports: this is put behind the operator
// that uses it, in one compilation unit.
//
//   part-<run>-<subtask>-<number>.parquet               what a writer has finished
//   .uncompacted-part-<run>-<subtask>-<number>          the same, to be compacted: hidden
//   compacted-part-<run>-<subtask>-<number>.parquet     made of one or several of those

final class ParquetFiles {
    static final String SUFFIX = ".parquet";
    private static final String UNCOMPACTED = ".uncompacted-", COMPACTED = "compacted-";
    private static final String NO_PARTITION = "__DEFAULT_PARTITION__";
    private static final int BATCH = 2048;
    /** A file of a job without checkpoints is finished after this. */
    private static final long ROLL_AFTER_MS = 1800000L;

    private final org.apache.flink.core.fs.Path folder;
    private final String run;
    private final boolean compact;
    private final long fileSize;
    private final String compression;
    private final org.apache.flink.table.types.logical.RowType rows;
    private final int partitionColumns;

    /**
     * references: the folder; what the names of this run's files begin with; whether to compact;
     * the size (bytes) at which a file is finished; the compression; the RowType of the rows, whose
     * last columns are the partition; how many those are.
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

    static boolean uncompacted(org.apache.flink.core.fs.Path file) {
        return file.getName().startsWith(UNCOMPACTED);
    }

    static org.apache.flink.core.fs.Path compacted(org.apache.flink.core.fs.Path first) {
        String name = first.getName().substring(UNCOMPACTED.length());
        String ending = name.endsWith(SUFFIX) ? "" : SUFFIX;
        return new org.apache.flink.core.fs.Path(first.getParent(), COMPACTED + name + ending);
    }

    /** What makes the writer's files; raw, for Janino knows no generics. */
    org.apache.flink.streaming.api.functions.sink.filesystem.legacy.StreamingFileSink.BucketsBuilder
            parts() {
        int count = rows.getFieldCount();
        String[] names = new String[count], partition = new String[partitionColumns];
        org.apache.flink.table.types.DataType[] types =
                new org.apache.flink.table.types.DataType[count];
        for (int i = 0; i < count; i++) {
            names[i] = (String) rows.getFieldNames().get(i);
            types[i] =
                    org.apache.flink.table.types.utils.TypeConversions.fromLogicalToDataType(
                            rows.getTypeAt(i));
        }
        System.arraycopy(names, count - partitionColumns, partition, 0, partitionColumns);
        org.apache.flink.connector.file.table.RowDataPartitionComputer computer =
                new org.apache.flink.connector.file.table.RowDataPartitionComputer(
                        NO_PARTITION, names, types, partition);
        // an open Parquet file cannot be continued after a restart, so each checkpoint finishes it
        org.apache.flink.connector.file.table.FileSystemTableSink.TableRollingPolicy rolling =
                new org.apache.flink.connector.file.table.FileSystemTableSink.TableRollingPolicy(
                        true, fileSize, ROLL_AFTER_MS, ROLL_AFTER_MS);
        org.apache.flink.streaming.api.functions.sink.filesystem.OutputFileConfig naming =
                org.apache.flink.streaming.api.functions.sink.filesystem.OutputFileConfig.builder()
                        .withPartPrefix((compact ? UNCOMPACTED : "") + "part-" + run)
                        .withPartSuffix(compact ? "" : SUFFIX)
                        .build();
        return org.apache.flink.streaming.api.functions.sink.filesystem.legacy.StreamingFileSink
                .forBulkFormat(
                        folder,
                        new org.apache.flink.connector.file.table.FileSystemTableSink
                                .ProjectionBulkFactory(parquet(), computer))
                .withBucketAssigner(
                        new org.apache.flink.connector.file.table.FileSystemTableSink
                                .TableBucketAssigner(computer))
                .withOutputFileConfig(naming)
                .withRollingPolicy(rolling);
    }

    /** For compaction: the columns without those of the partition, which is known there. */
    org.apache.flink.connector.file.table.stream.compact.CompactWriter.Factory writers() {
        final org.apache.flink.streaming.api.functions.sink.filesystem.legacy.StreamingFileSink
                        .BucketsBuilder
                bulk =
                        org.apache.flink.streaming.api.functions.sink.filesystem.legacy
                                .StreamingFileSink.forBulkFormat(folder, parquet());
        return org.apache.flink.connector.file.table.stream.compact.CompactBucketWriter.factory(
                new org.apache.flink.util.function.SupplierWithException() {
                    public Object get() throws java.io.IOException {
                        return bulk.createBucketWriter();
                    }
                });
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

    private org.apache.flink.formats.parquet.ParquetWriterFactory parquet() {
        org.apache.hadoop.conf.Configuration options = new org.apache.hadoop.conf.Configuration();
        options.set("parquet.compression", compression);
        return org.apache.flink.formats.parquet.row.ParquetRowDataBuilder.createWriterFactory(
                columns(), options, true);
    }

    private org.apache.flink.table.types.logical.RowType columns() {
        return new org.apache.flink.table.types.logical.RowType(
                new java.util.ArrayList(
                        rows.getFields().subList(0, rows.getFieldCount() - partitionColumns)));
    }
}
