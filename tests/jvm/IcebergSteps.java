// One start of a job, as its IcebergTable sees it: opened, then told of files once. It is put before
// the sources that it needs, in one compilation unit, for Janino (no generics, no lambdas).

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import org.apache.flink.core.fs.Path;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.logical.utils.LogicalTypeParser;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.Table;
import org.apache.iceberg.hadoop.HadoopTables;

public final class IcebergSteps {
    /**
     * columns: their names and SQL types, dt and hr at the end; files: partition and name, one a line.
     * Returns the partitions and names of the files that the table has then, one a line.
     */
    public static String step(
            String folder, String columns, String files, Integer checkpoint, Boolean again)
            throws Exception {
        String[] of = columns.split(" ");
        LogicalType[] types = new LogicalType[of.length / 2];
        String[] names = new String[of.length / 2];
        for (int i = 0; i < names.length; i++) {
            names[i] = of[2 * i];
            types[i] = LogicalTypeParser.parse(of[2 * i + 1], IcebergSteps.class.getClassLoader());
        }
        FileListener listener = FileListener.named("IcebergTable");
        listener.open(new Path(folder), RowType.of(types, names), 2);
        List messages = new ArrayList();
        String[] given = files.split("\n");
        for (int i = 0; i < given.length && !files.isEmpty(); i++) {
            String partition = given[i].substring(0, given[i].lastIndexOf("/") + 1);
            Path file = new Path(folder + "/" + given[i]);
            messages.add(ParquetFiles.message(partition, file, 0L, null, null));
        }
        listener.add(messages, checkpoint.longValue(), again.booleanValue());
        Table table = new HadoopTables().load(folder + "/_iceberg");
        StringBuilder found = new StringBuilder();
        Iterator all = table.newScan().planFiles().iterator();
        while (all.hasNext()) {
            FileScanTask task = (FileScanTask) all.next();
            String path = ((org.apache.iceberg.ContentFile) task.file()).location();
            found.append(path.substring(path.lastIndexOf("/dt=") + 1)).append("\n");
        }
        return found.toString();
    }

    /** Sets a property of the table. */
    public static String set(String folder, String key, String value) {
        new HadoopTables().load(folder + "/_iceberg").updateProperties().set(key, value).commit();
        return value;
    }

    /** What someone else does to the table: a file becomes another one. */
    public static String compact(String folder, String partition, String file, String into)
            throws Exception {
        Table table = new HadoopTables().load(folder + "/_iceberg");
        java.util.Set gone = new java.util.HashSet(), made = new java.util.HashSet();
        Iterator all = table.newScan().planFiles().iterator();
        while (all.hasNext()) {
            org.apache.iceberg.DataFile has =
                    (org.apache.iceberg.DataFile)
                            (Object) ((FileScanTask) all.next()).file();
            if (has.location().endsWith("/" + file)) {
                gone.add(has);
                made.add(
                        org.apache.iceberg.DataFiles.builder(table.spec())
                                .withPath(has.location().replace(file, into))
                                .withFormat("PARQUET")
                                .withPartitionPath(partition)
                                .withFileSizeInBytes(has.fileSizeInBytes())
                                .withRecordCount(has.recordCount())
                                .build());
            }
        }
        table.newRewrite().rewriteFiles(gone, made).commit();
        return into;
    }
}
