// Keeps an Iceberg table over the visible files of samples/: one snapshot for each checkpoint that made
// some visible. The files stay what they are. They have no field ids, so the table has a name mapping,
// and no partition columns, which readers take from the metadata (Iceberg's spec, "Column projection").
// Of Iceberg only its library is used, nothing of its Flink connector.
// No imports: this is put behind the operator that uses it, in one compilation unit.
//
// An append may be done, and the job fail before it knows. Each snapshot has the number of its
// checkpoint, and each file that of the checkpoint it was begun after, which is less. So whether a file
// was appended is found in the snapshots whose numbers are greater than the file's.
//
// Hours that a backfill has replaced (_current.json beside samples/) have the files of its generation
// and no others. The job and the backfill see to that, whoever comes first: in one snapshot, with the
// names of the generations that the table knows then. A commit to a local folder is a rename that
// replaces what another process has put there, so a lock goes around each.

final class IcebergTable extends FileListener {
    private static final String CHECKPOINT = "sample-stitch.checkpoint";
    private static final String GENERATIONS = "sample-stitch.generations";
    private static final String MAPPING = "schema.name-mapping.default";
    /** Snapshots older than history.expire.max-snapshot-age-ms (5 days) go, so metadata stay small. */
    private static final int EXPIRE_EVERY = 100;

    private final org.apache.hadoop.conf.Configuration options =
            new org.apache.hadoop.conf.Configuration();
    private org.apache.iceberg.Table table;
    private org.apache.flink.core.fs.Path output;
    private int appends = 0;

    void open(
            org.apache.flink.core.fs.Path folder,
            org.apache.flink.table.types.logical.RowType rows,
            int partitionColumns)
            throws Exception {
        output = folder.getParent();
        java.io.RandomAccessFile lock = locked();
        try {
            openLocked(folder, rows, partitionColumns);
        } finally {
            unlock(lock);
        }
    }

    private void openLocked(
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
        takeGenerations();
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
        java.io.RandomAccessFile lock = locked();
        try {
            table.refresh();
            addLocked(files, checkpoint, again);
        } finally {
            unlock(lock);
        }
    }

    private void addLocked(java.util.List files, long checkpoint, boolean again) throws Exception {
        java.util.List generations = generations();
        java.util.Set known = again ? appended(files) : java.util.Collections.emptySet();
        java.util.List missing = new java.util.ArrayList();
        for (int i = 0; i < files.size(); i++) {
            org.apache.flink.types.Row message = (org.apache.flink.types.Row) files.get(i);
            org.apache.flink.core.fs.Path file = ParquetFiles.file(message);
            // the generation has the rows of its hours already
            boolean replaced = holder(generations, file.getParent()) != null;
            if (!replaced && !known.contains(qualified(file))) {
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

    /** One snapshot in which the hours of generations that are new have their files for all others. */
    private void takeGenerations() throws Exception {
        java.util.List generations = generations();
        String had = (String) table.properties().get(GENERATIONS);
        java.util.Set known =
                new java.util.HashSet(java.util.Arrays.asList((had == null ? "" : had).split("\n")));
        java.util.List names = new java.util.ArrayList(), fresh = new java.util.ArrayList();
        for (int i = 0; i < generations.size(); i++) {
            String name = ((String[]) generations.get(i))[0];
            names.add(name);
            if (!known.contains(name)) {
                fresh.add(name);
            }
        }
        if (fresh.isEmpty()) {
            return;
        }
        java.util.Map wanted = new java.util.HashMap();
        for (int i = 0; i < fresh.size(); i++) {
            find((String) fresh.get(i), generations, wanted);
        }
        org.apache.iceberg.Transaction change = table.newTransaction();
        org.apache.iceberg.OverwriteFiles files = change.newOverwrite();
        int changed = 0;
        org.apache.iceberg.io.CloseableIterable scan = table.newScan().planFiles();
        for (java.util.Iterator all = scan.iterator(); all.hasNext(); ) {
            org.apache.iceberg.DataFile file =
                    (org.apache.iceberg.DataFile)
                            (Object) ((org.apache.iceberg.FileScanTask) all.next()).file();
            String hour = table.spec().partitionToPath(file.partition());
            if (fresh.contains(holder(generations, new org.apache.flink.core.fs.Path("/" + hour)))
                    && wanted.remove(file.location()) == null) {
                files.deleteFile(file);
                changed++;
            }
        }
        scan.close();
        String mapping = (String) table.properties().get(MAPPING);
        for (java.util.Iterator all = wanted.values().iterator(); all.hasNext(); ) {
            files.addFile(
                    described(table, mapping, (org.apache.flink.core.fs.Path) all.next()));
            changed++;
        }
        if (changed > 0) {
            files.commit();
        }
        change.updateProperties().set(GENERATIONS, String.join("\n", names)).commit();
        change.commitTransaction();
    }

    /** Adds the files of samples in a generation, in the hours that it holds, by their locations. */
    private void find(String generation, java.util.List generations, java.util.Map found)
            throws Exception {
        org.apache.flink.core.fs.Path folder =
                new org.apache.flink.core.fs.Path(output, generation + "/samples");
        org.apache.flink.core.fs.FileSystem files = folder.getFileSystem();
        org.apache.flink.core.fs.FileStatus[] days = visible(files, folder);
        for (int d = 0; d < days.length; d++) {
            org.apache.flink.core.fs.FileStatus[] hours = visible(files, days[d].getPath());
            for (int h = 0; h < hours.length; h++) {
                if (generation.equals(holder(generations, hours[h].getPath()))) {
                    org.apache.flink.core.fs.FileStatus[] data =
                            visible(files, hours[h].getPath());
                    for (int n = 0; n < data.length; n++) {
                        found.put(qualified(data[n].getPath()), data[n].getPath());
                    }
                }
            }
        }
    }

    /** Of the pointer, as in schemas/generations.py: {folder, from, to} of each. */
    private java.util.List generations() throws Exception {
        java.util.List found = new java.util.ArrayList();
        org.apache.flink.core.fs.Path pointer =
                new org.apache.flink.core.fs.Path(output, "_current.json");
        org.apache.flink.core.fs.FileSystem files = pointer.getFileSystem();
        if (!files.exists(pointer)) {
            return found;
        }
        java.io.InputStream text = files.open(pointer);
        org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode read;
        try {
            read =
                    new org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind
                                    .ObjectMapper()
                            .readTree(text);
        } finally {
            text.close();
        }
        if (child(read, "format").asInt() != 1) {
            throw new java.io.IOException(pointer + " is of a newer release");
        }
        org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode all =
                child(read, "generations");
        for (int i = 0; i < all.size(); i++) {
            org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode one =
                    (org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode)
                            (Object) all.get(i);
            String[] names = new String[] {"folder", "from", "to"};
            for (int n = 0; n < names.length; n++) {
                names[n] = child(one, names[n]).asText();
            }
            found.add(names);
        }
        return found;
    }

    /** Janino takes what a tree gives for less than a node. */
    private static org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode child(
            org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode of, String name) {
        return (org.apache.flink.shaded.jackson2.com.fasterxml.jackson.databind.JsonNode)
                (Object) of.get(name);
    }

    /** The folder of the generation that holds dt=…/hr=…; null: none does. */
    private static String holder(
            java.util.List generations, org.apache.flink.core.fs.Path partition) {
        String day = partition.getParent().getName(), hour = partition.getName();
        String at = day.substring(day.indexOf('=') + 1) + "T" + hour.substring(hour.indexOf('=') + 1);
        for (int i = generations.size() - 1; i >= 0; i--) {
            String[] one = (String[]) generations.get(i);
            if (one[1].compareTo(at) <= 0 && at.compareTo(one[2]) < 0) {
                return one[0];
            }
        }
        return null;
    }

    /** Waits until no other process changes the table; null where there is no such lock. */
    private java.io.RandomAccessFile locked() throws Exception {
        java.net.URI place = new org.apache.hadoop.fs.Path(qualified(output)).toUri();
        if (!"file".equals(place.getScheme())) {
            return null;
        }
        java.io.File folder = new java.io.File(place.getPath(), "samples");
        folder.mkdirs();
        java.io.RandomAccessFile file =
                new java.io.RandomAccessFile(new java.io.File(folder, "_iceberg.lock"), "rw");
        file.getChannel().lock();
        return file;
    }

    private static void unlock(java.io.RandomAccessFile lock) throws Exception {
        if (lock != null) {
            lock.close();
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
