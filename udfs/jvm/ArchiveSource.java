// The archive of both streams as a bounded source (docs/archive.md). A split is a partition of a topic,
// with the runs of rows that jobs/pipeline/archive_plan.py has found in the files. Of each partition the
// records come in the order of their offsets, by a merge of its runs; of all partitions of a reader, in
// the order of their clocks. The clock of a record is the greatest timestamp that its partition has shown
// up to it, but for those that are ahead of time. It is the record's time in Flink, so the watermark of a reader says which clocks it has
// passed. InOrder.java makes one order of what all readers give.
//
// A row: value, topic, partition, offset, timestamp, stream (0 features, 1 actions), place, clock, and the
// value of the last header of the name that is asked for, or null.
//
// These are objects of a source, not operators: they go in a jar (udfs/operators/shipped.py).

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.Serializable;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.connector.source.Boundedness;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.Source;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.api.connector.source.SourceSplit;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.api.connector.source.SplitsAssignment;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.file.src.FileSourceSplit;
import org.apache.flink.connector.file.src.reader.BulkFormat;
import org.apache.flink.connector.file.src.util.RecordAndPosition;
import org.apache.flink.core.fs.FileStatus;
import org.apache.flink.core.fs.Path;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.apache.flink.formats.parquet.ParquetColumnarRowInputFormat;
import org.apache.flink.table.data.ArrayData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.binary.BinaryStringData;
import org.apache.flink.table.runtime.typeutils.InternalTypeInfo;
import org.apache.flink.table.types.logical.RowType;

public final class ArchiveSource implements Source, Serializable {
    private static final long serialVersionUID = 1L;

    private final String[] partitions;
    private final RowType columns;
    private final long latest, bound;
    private final String header;

    /**
     * partitions: of each, what `ArchivePartition` reads. columns: of the files: topic, partition,
     * offset, timestamp, value, and the keys and values of the headers if they are of interest.
     * latest: the first timestamp that is none (ms).
     * bound: how far behind it records may be that follow a timestamp (ms).
     * header: whose value a row has.
     */
    public ArchiveSource(
            String[] partitions, RowType columns, long latest, String bound, String header) {
        this.header = header;
        this.partitions = partitions;
        this.columns = columns;
        this.latest = latest;
        this.bound = Long.parseLong(bound);
    }

    public Boundedness getBoundedness() {
        return Boundedness.BOUNDED;
    }

    public SplitEnumerator createEnumerator(SplitEnumeratorContext context) {
        List all = new ArrayList();
        for (int i = 0; i < partitions.length; i++) {
            all.add(new ArchivePartition(partitions[i]));
        }
        return new ArchiveEnumerator(context, all);
    }

    /** A restored job goes on with the plan that it began with, which is in its state. */
    public SplitEnumerator restoreEnumerator(SplitEnumeratorContext context, Object waiting) {
        return new ArchiveEnumerator(context, (List) waiting);
    }

    public SimpleVersionedSerializer getSplitSerializer() {
        return new ArchivePartitions(false);
    }

    public SimpleVersionedSerializer getEnumeratorCheckpointSerializer() {
        return new ArchivePartitions(true);
    }

    public SourceReader createReader(SourceReaderContext context) {
        return new ArchiveReader(context, columns, latest, bound, header);
    }
}

/** A partition, its runs, and how far it has been read: records below `next`, to the time `clock`. */
final class ArchivePartition implements SourceSplit {
    final long place;
    final int stream;
    final String folder, topic;
    final int partition;
    final long records;
    final ArchiveRun[] runs;
    final long next, clock;

    ArchivePartition(ArchivePartition of, ArchiveRun[] runs, long next, long clock) {
        place = of.place;
        stream = of.stream;
        folder = of.folder;
        topic = of.topic;
        partition = of.partition;
        records = of.records;
        this.runs = runs;
        this.next = next;
        this.clock = clock;
    }

    /** From lines: place, stream, folder, topic, partition, records; then a run a line. Tabs between. */
    ArchivePartition(String text) {
        String[] lines = text.split("\n");
        String[] head = lines[0].split("\t");
        place = Long.parseLong(head[0]);
        stream = Integer.parseInt(head[1]);
        folder = head[2];
        topic = head[3];
        partition = Integer.parseInt(head[4]);
        records = Long.parseLong(head[5]);
        runs = new ArchiveRun[lines.length - 1];
        for (int i = 0; i < runs.length; i++) {
            String[] of = lines[i + 1].split("\t");
            runs[i] =
                    new ArchiveRun(
                            of[0],
                            Long.parseLong(of[1]),
                            Long.parseLong(of[2]),
                            Long.parseLong(of[3]),
                            Long.parseLong(of[4]));
        }
        next = 0L;
        clock = 0L;
    }

    ArchivePartition(DataInputStream in) throws IOException {
        place = in.readLong();
        stream = in.readInt();
        folder = in.readUTF();
        topic = in.readUTF();
        partition = in.readInt();
        records = in.readLong();
        next = in.readLong();
        clock = in.readLong();
        runs = new ArchiveRun[in.readInt()];
        for (int i = 0; i < runs.length; i++) {
            runs[i] =
                    new ArchiveRun(
                            in.readUTF(), in.readLong(), in.readLong(), in.readLong(), in.readLong());
        }
    }

    void write(DataOutputStream out) throws IOException {
        out.writeLong(place);
        out.writeInt(stream);
        out.writeUTF(folder);
        out.writeUTF(topic);
        out.writeInt(partition);
        out.writeLong(records);
        out.writeLong(next);
        out.writeLong(clock);
        out.writeInt(runs.length);
        for (int i = 0; i < runs.length; i++) {
            out.writeUTF(runs[i].file);
            out.writeLong(runs[i].firstRow);
            out.writeLong(runs[i].endRow);
            out.writeLong(runs[i].first);
            out.writeLong(runs[i].last);
        }
    }

    public String splitId() {
        return stream + "/" + topic + "/" + partition;
    }
}

/** Rows of a file within which the offsets of a partition rise, from `first` to `last`. */
final class ArchiveRun {
    final String file;
    final long firstRow, endRow, first, last;

    ArchiveRun(String file, long firstRow, long endRow, long first, long last) {
        this.file = file;
        this.firstRow = firstRow;
        this.endRow = endRow;
        this.first = first;
        this.last = last;
    }
}

/** Of one partition, or of a list of them. */
final class ArchivePartitions implements SimpleVersionedSerializer {
    private final boolean several;

    ArchivePartitions(boolean several) {
        this.several = several;
    }

    public int getVersion() {
        return 1;
    }

    public byte[] serialize(Object of) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        List all = several ? (List) of : Collections.singletonList(of);
        out.writeInt(all.size());
        for (int i = 0; i < all.size(); i++) {
            ((ArchivePartition) all.get(i)).write(out);
        }
        return bytes.toByteArray();
    }

    public Object deserialize(int version, byte[] serialized) throws IOException {
        DataInputStream in = new DataInputStream(new ByteArrayInputStream(serialized));
        List all = new ArrayList();
        for (int i = in.readInt(); i > 0; i--) {
            all.add(new ArchivePartition(in));
        }
        return several ? all : all.get(0);
    }
}

/** Gives each reader its share when it registers, and says that there is no more: also after a restore. */
final class ArchiveEnumerator implements SplitEnumerator {
    private final SplitEnumeratorContext context;
    private final List waiting;
    /** By subtask: what it has not been given yet. Null: the shares are not made yet. */
    private Map shares;

    ArchiveEnumerator(SplitEnumeratorContext context, List waiting) {
        this.context = context;
        this.waiting = waiting;
    }

    public void start() {}

    public void handleSplitRequest(int subtask, String host) {}

    public void addSplitsBack(List splits, int subtask) {
        share(subtask).addAll(splits);
    }

    public void addReader(int subtask) {
        List share = share(subtask);
        if (!share.isEmpty()) {
            context.assignSplits(
                    new SplitsAssignment(
                            Collections.singletonMap(
                                    Integer.valueOf(subtask), new ArrayList(share))));
            share.clear();
        }
        context.signalNoMoreSplits(subtask);
    }

    public Object snapshotState(long checkpoint) {
        if (shares == null) {
            return waiting;
        }
        List all = new ArrayList();
        for (Iterator each = shares.values().iterator(); each.hasNext(); ) {
            all.addAll((List) each.next());
        }
        return all;
    }

    public void close() {}

    /** The largest partition first, each to who has the fewest records so far. */
    private List share(int subtask) {
        if (shares == null) {
            shares = new TreeMap();
            long[] records = new long[context.currentParallelism()];
            for (int i = 0; i < records.length; i++) {
                shares.put(Integer.valueOf(i), new ArrayList());
            }
            Collections.sort(
                    waiting,
                    new Comparator() {
                        public int compare(Object a, Object b) {
                            ArchivePartition one = (ArchivePartition) a;
                            ArchivePartition other = (ArchivePartition) b;
                            int more = Long.compare(other.records, one.records);
                            return more != 0 ? more : Long.compare(one.place, other.place);
                        }
                    });
            for (int i = 0; i < waiting.size(); i++) {
                int least = 0;
                for (int k = 1; k < records.length; k++) {
                    least = records[k] < records[least] ? k : least;
                }
                records[least] += ((ArchivePartition) waiting.get(i)).records;
                ((List) shares.get(Integer.valueOf(least))).add(waiting.get(i));
            }
        }
        return (List) shares.get(Integer.valueOf(subtask));
    }
}

/** Its partitions, merged by clock. It begins when it has all of them. */
final class ArchiveReader implements SourceReader {
    private final SourceReaderContext context;
    private final BulkFormat format;
    private final long latest, bound;
    /** Null: the headers are not read. */
    private final StringData header;
    private final List splits = new ArrayList();
    private final CompletableFuture complete = new CompletableFuture();
    private final List merges = new ArrayList();
    /** Those that have a record, the next one first. */
    private final PriorityQueue due = new PriorityQueue();
    private boolean begun = false;

    ArchiveReader(
            SourceReaderContext context,
            RowType columns,
            long latest,
            long bound,
            String header) {
        this.header =
                columns.getFieldCount() > RunCursor.HEADER_KEYS
                        ? BinaryStringData.fromString(header)
                        : null;
        this.context = context;
        this.latest = latest;
        this.bound = bound;
        format =
                new ParquetColumnarRowInputFormat(
                        new org.apache.hadoop.conf.Configuration(),
                        columns,
                        InternalTypeInfo.of(columns),
                        512,
                        true,
                        true);
    }

    public void start() {}

    public void addSplits(List more) {
        splits.addAll(more);
    }

    public void notifyNoMoreSplits() {
        complete.complete(null);
    }

    public CompletableFuture isAvailable() {
        return complete;
    }

    public InputStatus pollNext(ReaderOutput output) throws Exception {
        if (!complete.isDone()) {
            return InputStatus.NOTHING_AVAILABLE;
        }
        if (!begun) {
            begin();
            begun = true;
        }
        PartitionMerge next = (PartitionMerge) due.poll();
        if (next == null) {
            return InputStatus.END_OF_INPUT;
        }
        output.collect(next.row(), next.clock);
        if (next.advance()) {
            due.add(next);
        }
        return InputStatus.MORE_AVAILABLE;
    }

    private void begin() throws Exception {
        for (int i = 0; i < splits.size(); i++) {
            PartitionMerge merge =
                    new PartitionMerge(
                            (ArchivePartition) splits.get(i),
                            format,
                            context.getConfiguration(),
                            latest,
                            bound,
                            header);
            merges.add(merge);
            if (merge.advance()) {
                due.add(merge);
            }
        }
        splits.clear();
    }

    public List snapshotState(long checkpoint) {
        List kept = new ArrayList(splits);
        for (Iterator each = due.iterator(); each.hasNext(); ) {
            kept.add(((PartitionMerge) each.next()).position());
        }
        return kept;
    }

    public void close() throws Exception {
        for (Iterator each = merges.iterator(); each.hasNext(); ) {
            ((PartitionMerge) each.next()).close();
        }
    }
}

/** The records of a partition in the order of their offsets. Open are only the runs that overlap. */
final class PartitionMerge implements Comparable {
    /** A timestamp counts if not so many of the records behind it, of so many, are far behind it. */
    private static final int AHEAD = 15, MOST = 8;

    private final ArchivePartition split;
    private final StringData topic, header;
    private final BulkFormat format;
    private final Configuration settings;
    private final long latest, bound;
    private final PriorityQueue open = new PriorityQueue();
    private int opened = 0;
    /** What was read and is not due yet. */
    private final ArrayDeque ahead = new ArrayDeque();
    private long lastRead;
    /** The record at hand, and the offset of the one before it. */
    private ArchivedRecord at;
    private long last;
    /** Of the record at hand, and of the one before it. */
    long clock;
    private long before;

    PartitionMerge(
            ArchivePartition split,
            BulkFormat format,
            Configuration settings,
            long latest,
            long bound,
            StringData header) {
        this.header = header;
        this.split = split;
        this.format = format;
        this.settings = settings;
        this.latest = latest;
        this.bound = bound;
        topic = BinaryStringData.fromString(split.topic);
        last = split.next - 1L;
        lastRead = last;
        clock = split.clock;
    }

    /** To the next record; false: there is none. */
    boolean advance() throws Exception {
        before = clock;
        if (at != null) {
            last = at.offset;
        }
        boolean more = true;
        while (more && ahead.size() <= AHEAD) {
            more = read();
        }
        at = (ArchivedRecord) ahead.poll();
        if (at == null) {
            return false;
        }
        clock = counts(at.timestamp) ? Math.max(before, at.timestamp) : before;
        return true;
    }

    /** Not one that is none, or is of a clock that runs ahead of those after it. */
    private boolean counts(long timestamp) {
        int behind = 0;
        for (Iterator each = ahead.iterator(); each.hasNext(); ) {
            if (((ArchivedRecord) each.next()).timestamp < timestamp - bound) {
                behind++;
            }
        }
        return timestamp < latest && behind < MOST;
    }

    private boolean read() throws Exception {
        while (opened < split.runs.length
                && (open.isEmpty()
                        || split.runs[opened].first <= ((RunCursor) open.peek()).offset)) {
            RunCursor cursor = new RunCursor(split.runs[opened++], split, topic, format, settings);
            if (cursor.advance()) {
                open.add(cursor);
            }
        }
        RunCursor least = (RunCursor) open.poll();
        if (least == null) {
            return false;
        }
        if (least.offset <= lastRead) {
            throw new IOException(
                    "offset " + least.offset + " of " + split.topic + "[" + split.partition
                            + "] is in the archive twice, once in " + least.run.file);
        }
        lastRead = least.offset;
        ahead.add(
                new ArchivedRecord(
                        least.offset, least.timestamp, least.value(), least.header(header)));
        if (least.advance()) {
            open.add(least);
        }
        return true;
    }

    RowData row() {
        GenericRowData row = new GenericRowData(9);
        row.setField(0, at.value);
        row.setField(1, topic);
        row.setField(2, Integer.valueOf(split.partition));
        row.setField(3, Long.valueOf(at.offset));
        row.setField(4, Long.valueOf(at.timestamp));
        row.setField(5, Integer.valueOf(split.stream));
        row.setField(6, Long.valueOf(split.place));
        row.setField(7, Long.valueOf(clock));
        row.setField(8, at.header);
        return row;
    }

    /** What is still to be read, from the record at hand on. */
    ArchivePartition position() {
        List left = new ArrayList();
        for (int i = 0; i < split.runs.length; i++) {
            if (split.runs[i].last > last) {
                left.add(split.runs[i]);
            }
        }
        return new ArchivePartition(
                split, (ArchiveRun[]) left.toArray(new ArchiveRun[0]), last + 1L, before);
    }

    void close() throws IOException {
        for (Iterator each = open.iterator(); each.hasNext(); ) {
            ((RunCursor) each.next()).close();
        }
    }

    public int compareTo(Object o) {
        PartitionMerge other = (PartitionMerge) o;
        int order = Long.compare(clock, other.clock);
        return order != 0 ? order : Long.compare(split.place, other.split.place);
    }
}

/** A record. The value may be null, and so may the header's. */
final class ArchivedRecord {
    final long offset, timestamp;
    final byte[] value, header;

    ArchivedRecord(long offset, long timestamp, byte[] value, byte[] header) {
        this.header = header;
        this.offset = offset;
        this.timestamp = timestamp;
        this.value = value;
    }
}

/** The records of one partition in a run that are still to be read. */
final class RunCursor implements Comparable {
    private static final int TOPIC = 0, PARTITION = 1, OFFSET = 2, TIMESTAMP = 3, VALUE = 4;
    static final int HEADER_KEYS = 5;
    private static final int HEADER_VALUES = 6;

    final ArchiveRun run;
    private final ArchivePartition split;
    private final StringData topic;
    private final BulkFormat.Reader reader;
    private BulkFormat.RecordIterator batch;
    private long nextRow = 0L;
    private RowData row;
    long offset, timestamp;

    RunCursor(
            ArchiveRun run,
            ArchivePartition split,
            StringData topic,
            BulkFormat format,
            Configuration settings)
            throws IOException {
        this.run = run;
        this.split = split;
        this.topic = topic;
        Path path = new Path(split.folder + "/" + run.file);
        FileStatus status = path.getFileSystem().getFileStatus(path);
        long size = status.getLen();
        reader =
                format.createReader(
                        settings,
                        new FileSourceSplit(
                                run.file, path, 0L, size, status.getModificationTime(), size));
    }

    /** To the next record; false: there is none, and the file is closed. */
    boolean advance() throws IOException {
        while (nextRow < run.endRow) {
            RecordAndPosition next = batch == null ? null : batch.next();
            if (next == null) {
                if (batch != null) {
                    batch.releaseBatch();
                }
                batch = reader.readBatch();
                if (batch == null) {
                    throw new IOException(split.folder + "/" + run.file + " has become shorter");
                }
                continue;
            }
            row = (RowData) next.getRecord();
            if (nextRow++ >= run.firstRow
                    && row.getInt(PARTITION) == split.partition
                    && row.getLong(OFFSET) >= split.next
                    && row.getString(TOPIC).equals(topic)) {
                offset = row.getLong(OFFSET);
                timestamp = row.getLong(TIMESTAMP);
                return true;
            }
        }
        close();
        return false;
    }

    byte[] value() {
        return row.isNullAt(VALUE) ? null : row.getBinary(VALUE);
    }

    /** Of the last header of this name; null: there is none, or no name. */
    byte[] header(StringData name) {
        if (name == null || row.isNullAt(HEADER_KEYS)) {
            return null;
        }
        ArrayData keys = row.getArray(HEADER_KEYS), values = row.getArray(HEADER_VALUES);
        for (int i = keys.size() - 1; i >= 0; i--) {
            if (keys.getString(i).equals(name)) {
                return values.isNullAt(i) ? null : values.getBinary(i);
            }
        }
        return null;
    }

    void close() throws IOException {
        if (batch != null) {
            batch.releaseBatch();
            batch = null;
        }
        reader.close();
    }

    public int compareTo(Object o) {
        return Long.compare(offset, ((RunCursor) o).offset);
    }
}
