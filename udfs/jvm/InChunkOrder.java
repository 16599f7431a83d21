// One order for what several readers of files give: that of the plan, as if one reader had read all. (key,
// packed event, place) in; (key, packed event) out. It stands in front of the join, in each of its
// subtasks, and does what udfs.core.decode_batches.ReadFiles does where it reads alone: the watermark and
// the beacons are the same, at the same events.
//
// A place is the number of the chunk times the number of sources, plus the source. The last row of a chunk
// is a beacon at the place -1 - p; there is one for every subtask. The time of a row is how far the chunk
// had come before it, or -1.
//
// The events of the chunk that is next go through as they come; those of later chunks wait, and are kept
// in state. A checkpoint never divides a chunk, since each is decoded in one go.

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeutils.base.array.LongPrimitiveArraySerializer;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.types.Row;

public final class InChunkOrder extends AbstractStreamOperator
        implements OneInputStreamOperator, Comparator {
    private final String beacon;
    private final int sources;
    /** Of each source, how far the watermark is behind it, and in which steps it moves (ms). */
    private final long[] bound, step;

    /** The chunk that goes through. */
    private long next = 0L;
    /** Of each source, how far it counts for the watermark, and what its beacons have said; or -1. */
    private final long[] reached, told;
    private long sent = 0L;
    /** Rows of later chunks (key, event, place, time), by the number of the chunk. */
    private final TreeMap held = new TreeMap();
    private transient ListState keptRows, keptTimes;
    private transient StreamRecord out;

    /** references: what the keys of beacons begin with; then of each source its bound and its step. */
    public InChunkOrder(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        beacon = (String) references[0];
        sources = (references.length - 1) / 2;
        bound = new long[sources];
        step = new long[sources];
        reached = new long[sources];
        told = new long[sources];
        Arrays.fill(reached, -1L);
        Arrays.fill(told, -1L);
        for (int i = 0; i < sources; i++) {
            bound[i] = Long.parseLong((String) references[1 + 2 * i]);
            step[i] = Long.parseLong((String) references[2 + 2 * i]);
        }
    }

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        keptRows =
                context.getOperatorStateStore()
                        .getUnionListState(HeldRows.descriptor("chunk-rows-v1"));
        keptTimes =
                context.getOperatorStateStore()
                        .getUnionListState(
                                new ListStateDescriptor(
                                        "chunk-times-v1", LongPrimitiveArraySerializer.INSTANCE));
        restoreTimes();
        restoreRows();
    }

    /** All subtasks had come equally far at an aligned checkpoint; else the least of each is right. */
    private void restoreTimes() throws Exception {
        long[] least = null;
        for (Iterator all = ((Iterable) keptTimes.get()).iterator(); all.hasNext(); ) {
            long[] one = (long[]) all.next();
            if (least == null) {
                least = (long[]) one.clone();
            }
            for (int i = 0; i < least.length; i++) {
                least[i] = Math.min(least[i], one[i]);
            }
        }
        if (least != null) {
            next = least[0];
            for (int i = 0; i < sources; i++) {
                reached[i] = least[1 + i];
                told[i] = least[1 + sources + i];
            }
        }
    }

    private void restoreRows() throws Exception {
        List own =
                HeldRows.own(
                        (Iterable) keptRows.get(), beacon, getRuntimeContext().getTaskInfo());
        for (Iterator rows = own.iterator(); rows.hasNext(); ) {
            hold((Row) rows.next());
        }
        for (Iterator chunks = held.values().iterator(); chunks.hasNext(); ) {
            Collections.sort((List) chunks.next(), this); // stable: the events of a key keep their order
        }
    }

    /** By how far the chunk had come, with its end last. */
    public int compare(Object a, Object b) {
        int ends = Boolean.compare(place((Row) a) < 0L, place((Row) b) < 0L);
        return ends != 0 ? ends : Long.compare(before((Row) a), before((Row) b));
    }

    public void snapshotState(StateSnapshotContext context) throws Exception {
        super.snapshotState(context);
        List rows = new ArrayList();
        for (Iterator chunks = held.values().iterator(); chunks.hasNext(); ) {
            rows.addAll((List) chunks.next());
        }
        keptRows.update(rows);
        long[] times = new long[1 + 2 * sources];
        times[0] = next;
        System.arraycopy(reached, 0, times, 1, sources);
        System.arraycopy(told, 0, times, 1 + sources, sources);
        keptTimes.update(Collections.singletonList(times));
    }

    public void open() throws Exception {
        super.open();
        out = new StreamRecord(null);
    }

    public void processElement(StreamRecord record) throws Exception {
        Row row = (Row) record.getValue();
        long place = place(row);
        long chunk = chunk(place);
        if (chunk == next) {
            pass(
                    (String) row.getField(HeldRows.KEY),
                    (byte[]) row.getField(HeldRows.EVENT),
                    place,
                    record.getTimestamp());
            if (place < 0L) {
                passHeld();
            }
        } else if (chunk > next) {
            hold(HeldRows.of(record));
        } else {
            throw new IllegalStateException("chunk " + chunk + " comes again, at " + next);
        }
    }

    public void processWatermark(Watermark mark) throws Exception {
        if (mark.getTimestamp() == Long.MAX_VALUE) {
            // A drain ends the readers between two chunks: what was held for an earlier one goes now.
            while (!held.isEmpty()) {
                next = ((Long) held.firstKey()).longValue();
                passHeld();
            }
            output.emitWatermark(mark);
        }
    }

    private void hold(Row row) {
        Long chunk = Long.valueOf(chunk(place(row)));
        List rows = (List) held.get(chunk);
        if (rows == null) {
            rows = new ArrayList();
            held.put(chunk, rows);
        }
        rows.add(row);
    }

    /** Lets the next chunk through, and those that follow it, as far as they are there. */
    private void passHeld() throws Exception {
        while (!held.isEmpty() && ((Long) held.firstKey()).longValue() == next) {
            Map.Entry first = held.pollFirstEntry();
            for (Iterator rows = ((List) first.getValue()).iterator(); rows.hasNext(); ) {
                Row row = (Row) rows.next();
                if (chunk(place(row)) == next) { // after a restore, an end may be there several times
                    pass(
                            (String) row.getField(HeldRows.KEY),
                            (byte[]) row.getField(HeldRows.EVENT),
                            place(row),
                            before(row));
                }
            }
        }
    }

    private void pass(String key, byte[] event, long place, long before) throws Exception {
        boolean ends = place < 0L;
        int source = (int) ((ends ? -1L - place : place) % sources);
        if (before > reached[source]) {
            reached[source] = before;
            advance();
        }
        if (!key.startsWith(beacon) || tells(event, source, ends)) {
            Row row = new Row(2);
            row.setField(0, key);
            row.setField(1, event);
            output.collect(out.replace(row));
        }
        if (ends) {
            next++;
        }
    }

    /** Whether a beacon says more than those before it: a step, or at the end of a chunk anything. */
    private boolean tells(byte[] event, int source, boolean ends) {
        // schemas.events.Progress: tag, source, time
        Packed in = new Packed(event);
        in.array();
        in.skip();
        in.skip();
        long time = in.integer();
        boolean more =
                ends
                        ? time > told[source]
                        : Math.floorDiv(time, step[source]) > Math.floorDiv(told[source], step[source]);
        if (more) {
            told[source] = time;
        }
        return more;
    }

    /** The least of the sources' times, behind by their bounds, in steps; as udfs/core/file_clock.py. */
    private void advance() throws Exception {
        long to = Long.MAX_VALUE;
        for (int i = 0; i < sources; i++) {
            if (reached[i] < 0L) {
                return;
            }
            to = Math.min(to, reached[i] - Math.floorMod(reached[i], step[i]) - bound[i]);
        }
        if (to > sent) {
            sent = to;
            output.emitWatermark(new Watermark(to - 1L));
        }
    }

    private long chunk(long place) {
        return (place < 0L ? -1L - place : place) / sources;
    }

    private static long place(Row row) {
        return ((Long) row.getField(HeldRows.PLACE)).longValue();
    }

    private static long before(Row row) {
        return ((Long) row.getField(HeldRows.CLOCK)).longValue();
    }
}
