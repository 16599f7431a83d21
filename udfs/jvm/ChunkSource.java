// The plan of reading files (jobs/pipeline/file_plan.py) as a bounded source for several readers. A split
// is a chunk, a line of the plan. Each reader gets the next chunk when it is done with the one before, so
// no reader is far ahead of another, and InChunkOrder.java holds little.
//
// A row: the line, and its number. What follows in the same thread decodes the chunk.
//
// These are objects of a source, not operators: they go in a jar (udfs/operators/shipped.py).

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.Serializable;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import org.apache.flink.api.connector.source.Boundedness;
import org.apache.flink.api.connector.source.ReaderOutput;
import org.apache.flink.api.connector.source.Source;
import org.apache.flink.api.connector.source.SourceReader;
import org.apache.flink.api.connector.source.SourceReaderContext;
import org.apache.flink.api.connector.source.SourceSplit;
import org.apache.flink.api.connector.source.SplitEnumerator;
import org.apache.flink.api.connector.source.SplitEnumeratorContext;
import org.apache.flink.api.connector.source.SplitsAssignment;
import org.apache.flink.core.fs.Path;
import org.apache.flink.core.io.InputStatus;
import org.apache.flink.core.io.SimpleVersionedSerializer;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.binary.BinaryStringData;

public final class ChunkSource implements Source, Serializable {
    private static final long serialVersionUID = 1L;

    private final String plan;

    /** plan: a file with a chunk a line. */
    public ChunkSource(String plan) {
        this.plan = plan;
    }

    public Boundedness getBoundedness() {
        return Boundedness.BOUNDED;
    }

    public SplitEnumerator createEnumerator(SplitEnumeratorContext context) {
        return new ChunkEnumerator(context, new ChunkPosition(plan, 0L, new ArrayList()));
    }

    /** A restored job goes on in the plan that it began with. */
    public SplitEnumerator restoreEnumerator(SplitEnumeratorContext context, Object position) {
        return new ChunkEnumerator(context, (ChunkPosition) position);
    }

    public SimpleVersionedSerializer getSplitSerializer() {
        return new ChunkSplits();
    }

    public SimpleVersionedSerializer getEnumeratorCheckpointSerializer() {
        return new ChunkPositions();
    }

    public SourceReader createReader(SourceReaderContext context) {
        return new ChunkReader(context);
    }
}

/** A line of the plan, and its number. */
final class ChunkSplit implements SourceSplit, Comparable {
    final long number;
    final String line;

    ChunkSplit(long number, String line) {
        this.number = number;
        this.line = line;
    }

    public String splitId() {
        return Long.toString(number);
    }

    public int compareTo(Object other) {
        return Long.compare(number, ((ChunkSplit) other).number);
    }
}

/** The plan, the number of the chunk that is next, and those before it that readers gave back. */
final class ChunkPosition {
    final String plan;
    final long next;
    final List returned;

    ChunkPosition(String plan, long next, List returned) {
        this.plan = plan;
        this.next = next;
        this.returned = returned;
    }
}

final class ChunkSplits implements SimpleVersionedSerializer {
    public int getVersion() {
        return 1;
    }

    public byte[] serialize(Object of) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        write((ChunkSplit) of, new DataOutputStream(bytes));
        return bytes.toByteArray();
    }

    public Object deserialize(int version, byte[] serialized) throws IOException {
        return read(new DataInputStream(new ByteArrayInputStream(serialized)));
    }

    static void write(ChunkSplit split, DataOutputStream out) throws IOException {
        out.writeLong(split.number);
        text(split.line, out);
    }

    static ChunkSplit read(DataInputStream in) throws IOException {
        return new ChunkSplit(in.readLong(), text(in));
    }

    /** Of any length, which `writeUTF` is not. */
    static void text(String text, DataOutputStream out) throws IOException {
        byte[] bytes = text.getBytes("UTF-8");
        out.writeInt(bytes.length);
        out.write(bytes);
    }

    static String text(DataInputStream in) throws IOException {
        byte[] bytes = new byte[in.readInt()];
        in.readFully(bytes);
        return new String(bytes, "UTF-8");
    }
}

final class ChunkPositions implements SimpleVersionedSerializer {
    public int getVersion() {
        return 1;
    }

    public byte[] serialize(Object of) throws IOException {
        ChunkPosition position = (ChunkPosition) of;
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        ChunkSplits.text(position.plan, out);
        out.writeLong(position.next);
        out.writeInt(position.returned.size());
        for (int i = 0; i < position.returned.size(); i++) {
            ChunkSplits.write((ChunkSplit) position.returned.get(i), out);
        }
        return bytes.toByteArray();
    }

    public Object deserialize(int version, byte[] serialized) throws IOException {
        DataInputStream in = new DataInputStream(new ByteArrayInputStream(serialized));
        String plan = ChunkSplits.text(in);
        long next = in.readLong();
        List returned = new ArrayList();
        for (int i = in.readInt(); i > 0; i--) {
            returned.add(ChunkSplits.read(in));
        }
        return new ChunkPosition(plan, next, returned);
    }
}

/**
 * Gives the chunks in their order, each to the reader that asks next. A reader asks when it is done with
 * all that it had. None gets a chunk that is too far ahead of one that another reader still has: the join
 * waits for that one, and what comes after it is held.
 */
final class ChunkEnumerator implements SplitEnumerator {
    /** How many chunks for each reader may be held: a few MB. */
    private static final int LEAD = 8;
    /** What readers have, of those that have not asked yet: they may have chunks of before a restart. */
    private static final Long UNKNOWN = Long.valueOf(-1L);

    private final SplitEnumeratorContext context;
    private final String plan;
    private final TreeSet returned;
    private final List lines = new ArrayList();
    private long next;
    /** By reader: the number of the chunk that it has; absent: none, or the reader is not there yet. */
    private final TreeMap reading = new TreeMap();
    private final TreeSet asking = new TreeSet();

    ChunkEnumerator(SplitEnumeratorContext context, ChunkPosition position) {
        this.context = context;
        plan = position.plan;
        next = position.next;
        returned = new TreeSet(position.returned);
    }

    public void start() {
        try {
            Path path = new Path(plan);
            BufferedReader reader =
                    new BufferedReader(
                            new InputStreamReader(path.getFileSystem().open(path), "UTF-8"));
            try {
                for (String line = reader.readLine(); line != null; line = reader.readLine()) {
                    lines.add(line);
                }
            } finally {
                reader.close();
            }
        } catch (IOException e) {
            throw new IllegalStateException("the plan of reading the files cannot be read: " + plan, e);
        }
    }

    public void addReader(int subtask) {
        reading.put(Integer.valueOf(subtask), UNKNOWN);
        asking.remove(Integer.valueOf(subtask));
    }

    public void handleSplitRequest(int subtask, String host) {
        reading.remove(Integer.valueOf(subtask));
        asking.add(Integer.valueOf(subtask));
        give();
    }

    public void addSplitsBack(List splits, int subtask) {
        returned.addAll(splits);
        reading.remove(Integer.valueOf(subtask));
        asking.remove(Integer.valueOf(subtask));
    }

    public Object snapshotState(long checkpoint) {
        return new ChunkPosition(plan, next, new ArrayList(returned));
    }

    public void close() {}

    private void give() {
        if (context.registeredReaders().size() < context.currentParallelism()) {
            return; // who comes later may have earlier chunks
        }
        for (Iterator each = new ArrayList(asking).iterator(); each.hasNext(); ) {
            Integer subtask = (Integer) each.next();
            if (returned.isEmpty() && next >= lines.size()) {
                asking.remove(subtask);
                context.signalNoMoreSplits(subtask.intValue());
                continue;
            }
            ChunkSplit split =
                    returned.isEmpty()
                            ? new ChunkSplit(next, (String) lines.get((int) next))
                            : (ChunkSplit) returned.first();
            if (!reading.isEmpty()) {
                long earliest = ((Long) Collections.min(reading.values())).longValue();
                if (split.number > earliest + LEAD * context.currentParallelism()) {
                    return;
                }
            }
            if (!returned.remove(split)) {
                next++;
            }
            asking.remove(subtask);
            reading.put(subtask, Long.valueOf(split.number));
            context.assignSplits(
                    new SplitsAssignment(
                            Collections.singletonMap(subtask, Collections.singletonList(split))));
        }
    }
}

/** Gives out its chunks in their order, and asks for the next one when the last one is decoded. */
final class ChunkReader implements SourceReader {
    private final SourceReaderContext context;
    private final TreeSet splits = new TreeSet();
    private boolean complete = false;
    private CompletableFuture available = new CompletableFuture();

    ChunkReader(SourceReaderContext context) {
        this.context = context;
    }

    public void start() {
        if (splits.isEmpty()) {
            context.sendSplitRequest();
        }
    }

    public void addSplits(List more) {
        splits.addAll(more);
        available.complete(null);
    }

    public void notifyNoMoreSplits() {
        complete = true;
        available.complete(null);
    }

    public CompletableFuture isAvailable() {
        return available;
    }

    public InputStatus pollNext(ReaderOutput output) throws Exception {
        ChunkSplit split = (ChunkSplit) splits.pollFirst();
        if (split != null) {
            output.collect(
                    GenericRowData.of(
                            new Object[] {
                                BinaryStringData.fromString(split.line), Long.valueOf(split.number)
                            }));
            if (splits.isEmpty() && !complete) {
                context.sendSplitRequest();
            }
        }
        if (!splits.isEmpty()) {
            return InputStatus.MORE_AVAILABLE;
        }
        if (complete) {
            return InputStatus.END_OF_INPUT;
        }
        available = new CompletableFuture();
        return InputStatus.NOTHING_AVAILABLE;
    }

    public List snapshotState(long checkpoint) {
        return new ArrayList(splits);
    }

    public void close() {}
}
