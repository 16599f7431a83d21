// Internal rows to Parquet's own writer, as Flink's writer of rows does it, but without a copy of every
// text, and without a further row that leaves out the partition columns: they are the last ones, and
// are passed over. No imports: this is put behind the operator that uses it, in one compilation unit.

final class ParquetRows extends org.apache.parquet.hadoop.api.WriteSupport {
    private static final int BOOL = 0, BYTE = 1, INT = 2, LONG = 3, FLOAT = 4, DOUBLE = 5;
    private static final int TEXT = 6, BYTES = 7, LIST = 8;
    private static final String[] ROOTS = {
        "BOOLEAN", "TINYINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR", "VARBINARY", "ARRAY"
    };

    /** The columns of the file; rows may have more behind them. */
    private final org.apache.flink.table.types.logical.RowType columns;
    private final String[] names;
    private final int[] kinds, elements;

    private org.apache.parquet.io.api.RecordConsumer to;

    ParquetRows(org.apache.flink.table.types.logical.RowType columns) {
        this.columns = columns;
        int count = columns.getFieldCount();
        names = new String[count];
        kinds = new int[count];
        elements = new int[count];
        for (int i = 0; i < count; i++) {
            names[i] = (String) columns.getFieldNames().get(i);
            kinds[i] = kind(columns.getTypeAt(i));
            if (kinds[i] == LIST) {
                elements[i] =
                        kind(
                                (org.apache.flink.table.types.logical.LogicalType)
                                        columns.getTypeAt(i).getChildren().get(0));
            }
        }
    }

    private static int kind(org.apache.flink.table.types.logical.LogicalType type) {
        int kind = java.util.Arrays.asList(ROOTS).indexOf(type.getTypeRoot().name());
        if (kind < 0) {
            throw new IllegalArgumentException("no such type: " + type);
        }
        return kind;
    }

    public org.apache.parquet.hadoop.api.WriteSupport.WriteContext init(
            org.apache.hadoop.conf.Configuration options) {
        return new org.apache.parquet.hadoop.api.WriteSupport.WriteContext(
                org.apache.flink.formats.parquet.utils.ParquetSchemaConverter
                        .convertToParquetMessageType("flink_schema", columns, options),
                new java.util.HashMap());
    }

    public void prepareForWrite(org.apache.parquet.io.api.RecordConsumer consumer) {
        to = consumer;
    }

    public void write(Object record) {
        org.apache.flink.table.data.RowData row = (org.apache.flink.table.data.RowData) record;
        to.startMessage();
        for (int i = 0; i < names.length; i++) {
            if (!row.isNullAt(i)) {
                to.startField(names[i], i);
                add(row, i);
                to.endField(names[i], i);
            }
        }
        to.endMessage();
    }

    private void add(org.apache.flink.table.data.RowData row, int i) {
        switch (kinds[i]) {
            case BOOL: to.addBoolean(row.getBoolean(i)); break;
            case BYTE: to.addInteger(row.getByte(i)); break;
            case INT: to.addInteger(row.getInt(i)); break;
            case LONG: to.addLong(row.getLong(i)); break;
            case FLOAT: to.addFloat(row.getFloat(i)); break;
            case DOUBLE: to.addDouble(row.getDouble(i)); break;
            case TEXT: to.addBinary(binary(row.getString(i))); break;
            case BYTES: to.addBinary(binary(row.getBinary(i))); break;
            default: add(row.getArray(i), elements[i]);
        }
    }

    /** A list, as the Parquet format wants it: its LogicalTypes.md. */
    private void add(org.apache.flink.table.data.ArrayData list, int kind) {
        to.startGroup();
        if (list.size() > 0) {
            to.startField("list", 0);
            for (int i = 0; i < list.size(); i++) {
                to.startGroup();
                if (!list.isNullAt(i)) {
                    to.startField("element", 0);
                    addElement(list, i, kind);
                    to.endField("element", 0);
                }
                to.endGroup();
            }
            to.endField("list", 0);
        }
        to.endGroup();
    }

    private void addElement(org.apache.flink.table.data.ArrayData list, int i, int kind) {
        switch (kind) {
            case BOOL: to.addBoolean(list.getBoolean(i)); break;
            case BYTE: to.addInteger(list.getByte(i)); break;
            case INT: to.addInteger(list.getInt(i)); break;
            case LONG: to.addLong(list.getLong(i)); break;
            case FLOAT: to.addFloat(list.getFloat(i)); break;
            case DOUBLE: to.addDouble(list.getDouble(i)); break;
            case TEXT: to.addBinary(binary(list.getString(i))); break;
            case BYTES: to.addBinary(binary(list.getBinary(i))); break;
            default: throw new IllegalArgumentException("a list of lists");
        }
    }

    private static org.apache.parquet.io.api.Binary binary(byte[] bytes) {
        return org.apache.parquet.io.api.Binary.fromReusedByteArray(bytes);
    }

    /** The text's bytes where they are: Parquet copies what it keeps. */
    private static org.apache.parquet.io.api.Binary binary(
            org.apache.flink.table.data.StringData value) {
        org.apache.flink.table.data.binary.BinaryStringData text =
                (org.apache.flink.table.data.binary.BinaryStringData) value;
        text.ensureMaterialized();
        org.apache.flink.core.memory.MemorySegment[] segments = text.getSegments();
        return segments.length > 1 || segments[0].isOffHeap()
                ? binary(text.toBytes())
                : org.apache.parquet.io.api.Binary.fromReusedByteArray(
                        segments[0].getArray(), text.getOffset(), text.getSizeInBytes());
    }

    /** What makes writers of files with these columns. */
    static final class Files implements org.apache.flink.formats.parquet.ParquetBuilder {
        private final org.apache.flink.table.types.logical.RowType columns;
        private final String compression;

        Files(org.apache.flink.table.types.logical.RowType columns, String compression) {
            this.columns = columns;
            this.compression = compression;
        }

        public org.apache.parquet.hadoop.ParquetWriter createWriter(
                org.apache.parquet.io.OutputFile out) throws java.io.IOException {
            return new Builder(out, new ParquetRows(columns))
                    .withCompressionCodec(
                            org.apache.parquet.hadoop.metadata.CompressionCodecName.fromConf(
                                    compression))
                    .withConf(new org.apache.hadoop.conf.Configuration())
                    .build();
        }
    }

    private static final class Builder extends org.apache.parquet.hadoop.ParquetWriter.Builder {
        private final ParquetRows rows;

        Builder(org.apache.parquet.io.OutputFile out, ParquetRows rows) {
            super(out);
            this.rows = rows;
        }

        protected org.apache.parquet.hadoop.ParquetWriter.Builder self() {
            return this;
        }

        protected org.apache.parquet.hadoop.api.WriteSupport getWriteSupport(
                org.apache.hadoop.conf.Configuration options) {
            return rows;
        }
    }
}
