// Keeps an Iceberg table over the visible files of samples/: one snapshot for each checkpoint that made
// some visible. The files stay what they are. They have no field ids, so the table has a name mapping,
// and no partition columns, which readers take from the metadata (Iceberg's spec, "Column projection").
// Of Iceberg only its library is used, nothing of its Flink connector.
// No imports: this is put behind the operator that uses it, in one compilation unit.
//
// An append may be done, and the job fail before it knows. Each snapshot has the number of its
// checkpoint, and each file that of the checkpoint it was begun after, which is less. So whether a file
// was appended is found in the snapshots whose numbers are greater than the file's.

final class IcebergTable extends FileListener {
    private static final String CHECKPOINT = "sample-stitch.checkpoint";
    private static final String MAPPING = "schema.name-mapping.default";
    /** Snapshots older than history.expire.max-snapshot-age-ms (5 days) go, so metadata stay small. */
    private static final int EXPIRE_EVERY = 100;

    private final org.apache.hadoop.conf.Configuration options =
            new org.apache.hadoop.conf.Configuration();
    private org.apache.iceberg.Table table;
    private int appends = 0;

    void open(
            org.apache.flink.core.fs.Path folder,
            org.apache.flink.table.types.logical.RowType rows,
            int partitionColumns)
            throws Exception {
        // readers of the folder pass over what begins with _
        String place = qualified(new org.apache.flink.core.fs.Path(folder, "_iceberg"));
        org.apache.iceberg.hadoop.HadoopTables tables =
                new org.apache.iceberg.hadoop.HadoopTables(options);
        org.apache.iceberg.Schema wanted = schema(rows);
        if (!tables.exists(place)) {
            create(tables, place, wanted, partitionColumns, folder);
        }
        table = tables.load(place);
        try {
            // a column that is not declared any more stays, and is null in new rows
            table.updateSchema().unionByNameWith(wanted).commit();
        } catch (IllegalArgumentException e) {
            throw new IllegalArgumentException(
                    "output.table: the Iceberg table in "
                            + place
                            + " cannot take the columns that are declared now ("
                            + e.getMessage()
                            + "). Declare the feature under another name");
        }
        // A process that was killed may have left version-hint.text, by which some readers find the
        // metadata, one version behind. Any commit writes it again.
        table.updateProperties()
                .set("sample-stitch.opened", Long.toString(System.currentTimeMillis()))
                .commit();
    }

    /** With the files that are there already, all in one step. */
    private void create(
            org.apache.iceberg.hadoop.HadoopTables tables,
            String place,
            org.apache.iceberg.Schema schema,
            int partitionColumns,
            org.apache.flink.core.fs.Path folder)
            throws Exception {
        org.apache.iceberg.PartitionSpec.Builder spec =
                org.apache.iceberg.PartitionSpec.builderFor(schema);
        int count = schema.columns().size();
        for (int i = count - partitionColumns; i < count; i++) {
            spec.identity(((org.apache.iceberg.types.Types.NestedField) schema.columns().get(i)).name());
        }
        java.util.Map properties = new java.util.HashMap();
        properties.put("format-version", "2");
        properties.put("write.metadata.delete-after-commit.enabled", "true");
        org.apache.iceberg.Transaction made =
                tables.buildTable(place, schema)
                        .withPartitionSpec(spec.build())
                        .withProperties(properties)
                        .createTransaction();
        String mapping =
                org.apache.iceberg.mapping.NameMappingParser.toJson(
                        org.apache.iceberg.mapping.MappingUtil.create(made.table().schema()));
        made.updateProperties().set(MAPPING, mapping).commit();
        java.util.List found = new java.util.ArrayList();
        org.apache.flink.core.fs.FileSystem files = folder.getFileSystem();
        org.apache.flink.core.fs.FileStatus[] days = visible(files, folder);
        for (int d = 0; d < days.length; d++) {
            org.apache.flink.core.fs.FileStatus[] hours = visible(files, days[d].getPath());
            for (int h = 0; h < hours.length; h++) {
                org.apache.flink.core.fs.FileStatus[] data = visible(files, hours[h].getPath());
                for (int n = 0; n < data.length; n++) {
                    found.add(described(made.table(), mapping, data[n].getPath()));
                }
            }
        }
        if (!found.isEmpty()) {
            append(made.newAppend(), found, 0L);
        }
        made.commitTransaction();
    }

    private static org.apache.flink.core.fs.FileStatus[] visible(
            org.apache.flink.core.fs.FileSystem files, org.apache.flink.core.fs.Path folder)
            throws Exception {
        java.util.List found = new java.util.ArrayList();
        org.apache.flink.core.fs.FileStatus[] all =
                files.exists(folder)
                        ? files.listStatus(folder)
                        : new org.apache.flink.core.fs.FileStatus[0];
        for (int i = 0; i < all.length; i++) {
            String name = all[i].getPath().getName();
            if (!name.startsWith(".") && !name.startsWith("_")) {
                found.add(all[i]);
            }
        }
        return (org.apache.flink.core.fs.FileStatus[])
                found.toArray(new org.apache.flink.core.fs.FileStatus[found.size()]);
    }

    void add(java.util.List files, long checkpoint, boolean again) throws Exception {
        java.util.Set known = again ? appended(files) : java.util.Collections.emptySet();
        java.util.List missing = new java.util.ArrayList();
        for (int i = 0; i < files.size(); i++) {
            org.apache.flink.types.Row message = (org.apache.flink.types.Row) files.get(i);
            org.apache.flink.core.fs.Path file = ParquetFiles.file(message);
            if (!known.contains(qualified(file))) {
                String mapping = (String) table.properties().get(MAPPING);
                missing.add(described(table, mapping, file));
            }
        }
        if (!missing.isEmpty()) {
            append(table.newAppend(), missing, checkpoint);
        }
        // Never before it is known what had been appended. Data files are not this table's to delete.
        if (!again && appends++ % EXPIRE_EVERY == 0) {
            table.expireSnapshots()
                    .cleanupLevel(org.apache.iceberg.ExpireSnapshots.CleanupLevel.METADATA_ONLY)
                    .commit();
        }
    }

    private static void append(
            org.apache.iceberg.AppendFiles to, java.util.List files, long checkpoint) {
        for (int i = 0; i < files.size(); i++) {
            to.appendFile((org.apache.iceberg.DataFile) files.get(i));
        }
        to.set(CHECKPOINT, Long.toString(checkpoint));
        to.commit();
    }

    /** The files of all snapshots that may have one of these, by their paths. */
    private java.util.Set appended(java.util.List files) throws Exception {
        long oldest = Long.MAX_VALUE;
        for (int i = 0; i < files.size(); i++) {
            org.apache.flink.types.Row message = (org.apache.flink.types.Row) files.get(i);
            oldest = Math.min(oldest, ParquetFiles.after(ParquetFiles.file(message)));
        }
        java.util.Set found = new java.util.HashSet();
        org.apache.iceberg.Snapshot snapshot = table.currentSnapshot();
        boolean older = files.isEmpty();
        while (snapshot != null && !older) {
            // those of others (compaction, deletion) have no number, and append nothing of ours
            String number = (String) snapshot.summary().get(CHECKPOINT);
            if (number != null) {
                java.util.Iterator all = snapshot.addedDataFiles(table.io()).iterator();
                while (all.hasNext()) {
                    found.add(((org.apache.iceberg.DataFile) all.next()).location());
                }
                older = Long.parseLong(number) <= oldest;
            }
            Long parent = snapshot.parentId();
            snapshot = parent == null ? null : table.snapshot(parent.longValue());
        }
        return found;
    }

    /** What the table says of a file: its size, and what its footer says of its columns. */
    private org.apache.iceberg.DataFile described(
            org.apache.iceberg.Table of, String mapping, org.apache.flink.core.fs.Path file)
            throws Exception {
        org.apache.flink.core.fs.Path hour = file.getParent();
        String partition = hour.getParent().getName() + "/" + hour.getName();
        org.apache.iceberg.io.InputFile input = of.io().newInputFile(qualified(file));
        org.apache.iceberg.Metrics metrics =
                org.apache.iceberg.parquet.ParquetUtil.fileMetrics(
                        input,
                        org.apache.iceberg.MetricsConfig.forTable(of),
                        org.apache.iceberg.mapping.NameMappingParser.fromJson(mapping));
        return org.apache.iceberg.DataFiles.builder(of.spec())
                .withInputFile(input)
                .withFormat("PARQUET")
                .withPartitionPath(partition)
                .withMetrics(metrics)
                .build();
    }

    /** With the scheme, so that it means the same to all readers. */
    private String qualified(org.apache.flink.core.fs.Path file) throws Exception {
        org.apache.hadoop.fs.Path path = new org.apache.hadoop.fs.Path(file.toString());
        return path.getFileSystem(options).makeQualified(path).toString();
    }

    private static org.apache.iceberg.Schema schema(
            org.apache.flink.table.types.logical.RowType rows) {
        java.util.List fields = new java.util.ArrayList();
        int count = rows.getFieldCount();
        for (int i = 0; i < count; i++) {
            org.apache.flink.table.types.logical.LogicalType type = rows.getTypeAt(i);
            org.apache.iceberg.types.Type found;
            if (type.getTypeRoot().name().equals("ARRAY")) {
                found =
                        org.apache.iceberg.types.Types.ListType.ofOptional(
                                count + i + 1,
                                scalar(
                                        (org.apache.flink.table.types.logical.LogicalType)
                                                type.getChildren().get(0)));
            } else {
                found = scalar(type);
            }
            String name = (String) rows.getFieldNames().get(i);
            fields.add(org.apache.iceberg.types.Types.NestedField.optional(i + 1, name, found));
        }
        return new org.apache.iceberg.Schema(fields);
    }

    /** Iceberg has no integer of one byte. */
    private static org.apache.iceberg.types.Type scalar(
            org.apache.flink.table.types.logical.LogicalType type) {
        String root = type.getTypeRoot().name();
        if (root.equals("BOOLEAN")) {
            return org.apache.iceberg.types.Types.BooleanType.get();
        }
        if (root.equals("TINYINT") || root.equals("INTEGER")) {
            return org.apache.iceberg.types.Types.IntegerType.get();
        }
        if (root.equals("BIGINT")) {
            return org.apache.iceberg.types.Types.LongType.get();
        }
        if (root.equals("FLOAT")) {
            return org.apache.iceberg.types.Types.FloatType.get();
        }
        if (root.equals("DOUBLE")) {
            return org.apache.iceberg.types.Types.DoubleType.get();
        }
        return org.apache.iceberg.types.Types.StringType.get();
    }
}
