// Writes the same random rows by `ParquetRows` and by Flink's own writer of rows. It is put before the
// source of `ParquetRows`, in one compilation unit, for Janino (no generics, no lambdas).

import java.util.Random;
import org.apache.flink.api.common.serialization.BulkWriter;
import org.apache.flink.core.fs.FSDataOutputStream;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.fs.Path;
import org.apache.flink.formats.parquet.ParquetWriterFactory;
import org.apache.flink.formats.parquet.row.ParquetRowDataBuilder;
import org.apache.flink.table.data.GenericArrayData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.binary.BinaryStringData;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.logical.utils.LogicalTypeParser;
import org.apache.hadoop.conf.Configuration;

public final class WriteTwice {
    /** The texts and bytes of a row, which those of the next row overwrite. */
    private static final byte[] reused = new byte[1 << 16];
    private static int at;

    /** types: the SQL types of the columns, with blanks between them; ours, theirs: paths of files. */
    public static Integer write(String types, String compression, Integer seed, Integer rows,
            String ours, String theirs) throws Exception {
        String[] of = types.split(" ");
        LogicalType[] columns = new LogicalType[of.length];
        String[] names = new String[of.length];
        for (int i = 0; i < of.length; i++) {
            columns[i] = LogicalTypeParser.parse(of[i], WriteTwice.class.getClassLoader());
            names[i] = "c" + i;
        }
        RowType row = RowType.of(columns, names);
        Configuration options = new Configuration();
        options.set("parquet.compression", compression);
        write(new ParquetWriterFactory(new ParquetRows.Files(row, compression)), of, seed, rows, ours);
        write(ParquetRowDataBuilder.createWriterFactory(row, options, true), of, seed, rows, theirs);
        return rows;
    }

    private static void write(ParquetWriterFactory files, String[] types, Integer seed, Integer rows,
            String path) throws Exception {
        Path file = new Path(path);
        FSDataOutputStream out = file.getFileSystem().create(file, FileSystem.WriteMode.NO_OVERWRITE);
        BulkWriter writer = files.create(out);
        Random random = new Random(seed.longValue());
        for (int n = 0; n < rows.intValue(); n++) {
            // behind the columns are those of the partition
            GenericRowData row = new GenericRowData(types.length + 1);
            at = 0;
            for (int i = 0; i < types.length; i++) {
                row.setField(i, random.nextInt(5) == 0 ? null : value(types[i], random));
            }
            row.setField(types.length, BinaryStringData.fromString("not written"));
            writer.addElement(row);
        }
        writer.finish();
        out.close();
    }

    private static Object value(String type, Random random) {
        if (type.startsWith("ARRAY<")) {
            Object[] values = new Object[random.nextInt(4)];
            for (int i = 0; i < values.length; i++) {
                String of = type.substring(6, type.length() - 1);
                values[i] = random.nextInt(5) == 0 ? null : value(of, random);
            }
            return new GenericArrayData(values);
        }
        if (type.equals("BOOLEAN")) {
            return Boolean.valueOf(random.nextBoolean());
        }
        if (type.equals("TINYINT")) {
            return Byte.valueOf((byte) random.nextInt());
        }
        if (type.equals("INT")) {
            return Integer.valueOf(random.nextInt());
        }
        if (type.equals("BIGINT")) {
            return Long.valueOf(random.nextLong());
        }
        if (type.equals("FLOAT")) {
            return Float.valueOf(Float.intBitsToFloat(random.nextInt()));
        }
        if (type.equals("DOUBLE")) {
            return Double.valueOf(Double.longBitsToDouble(random.nextLong()));
        }
        int from = at;
        at += random.nextInt(40);
        for (int i = from; i < at; i++) {
            reused[i] = (byte) ('a' + random.nextInt(3));
        }
        if (type.equals("BYTES")) {
            return java.util.Arrays.copyOfRange(reused, from, at);
        }
        // as a text of Java, or as a slice of other bytes
        return random.nextBoolean()
                ? BinaryStringData.fromString(new String(reused, from, at - from))
                : BinaryStringData.fromBytes(reused, from, at - from);
    }
}
