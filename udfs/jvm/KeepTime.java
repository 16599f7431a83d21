// Decides which watermark the join sees. (key, packed event) in and out; it stands in front of the
// join, in each of its subtasks.
//
// - Label silence (docs/join-semantics.md 10): the watermark waits while no actions come.
// - Restarts: the watermark and the progress of all sources are kept in union list state, so every
//   subtask has them again at once, at any parallelism, and also when nothing new is read.
// - Idle sources: what comes after the join never becomes idle. It would drop the last watermark of a
//   stop with drain, and a union would run ahead of the join.
// - The last watermark is sent at the end of the input, so after the last record of every source.

import java.nio.ByteBuffer;
import java.util.Collections;
import java.util.Iterator;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeutils.base.array.LongPrimitiveArraySerializer;
import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.Gauge;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;
import org.apache.flink.types.Row;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

public final class KeepTime extends AbstractStreamOperator
        implements OneInputStreamOperator, BoundedOneInput {
    private static final Logger LOG = LoggerFactory.getLogger("sample_stitch.label_silence");
    private static final long NEVER = Long.MIN_VALUE;
    private static final int FEATURES = 0, ACTIONS = 1;
    /**
     * What one subtask keeps: the fields below, in this order. Where a stream has several sources,
     * a pair follows for each: a hash of its name, and the greatest time that it has shown.
     */
    private static final int ARRIVED = 0, SENT = 1, PROGRESS = 2, FROM = 4, HOLDING = 5, SIZE = 6;

    private final String beacon;
    /** The keys of the sources: `features`, or `features.app`. */
    private final String[] sources;
    private final byte[][] names;
    /** Whether a stream has several sources, so that their progress is not that of the stream. */
    private final boolean named;
    /** A packed beacon of each source, up to its time: 8 bytes, big-endian. */
    private final byte[][] beaconHead;
    private final boolean holds;
    private final long after;
    private final long bound;
    private final long maxHold;

    /** The greatest time that each stream, and each source, has shown. */
    private final long[] progress = {NEVER, NEVER};
    private final long[] shown;
    /** The watermark of the sources, and the one that the join has seen. */
    private long arrived = NEVER;
    private long sent = NEVER;
    /** A0 + T: a silence lets the watermark go up to here in any case. */
    private long from = NEVER;
    private boolean holding = false;
    private boolean ended = false;

    /** What the gauges show: the watermark that the join has seen, the progress of each stream. */
    private final Moment watermark = new Moment();
    private final Moment[] newest = {new Moment(), new Moment()};
    private final Moment[] newestOf;

    private transient ListState kept;
    private transient Counter silences;
    /** All subtasks decide alike; one of them tells of it. */
    private transient boolean speaks;

    /**
     * references: what the keys of beacons begin with; the keys of the sources, a line each; the
     * heads of their beacons (latin-1); then, with label silence, T, B, M (ms).
     */
    public KeepTime(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        beacon = (String) references[0];
        sources = ((String) references[1]).split("\n");
        names = new byte[sources.length][];
        beaconHead = new byte[sources.length][];
        shown = new long[sources.length];
        newestOf = new Moment[sources.length];
        boolean several = false;
        for (int i = 0; i < sources.length; i++) {
            names[i] = sources[i].getBytes("US-ASCII");
            beaconHead[i] = ((String) references[2 + i]).getBytes("ISO-8859-1");
            shown[i] = NEVER;
            newestOf[i] = new Moment();
            several = several || sources[i].indexOf('.') >= 0;
        }
        named = several;
        int next = 2 + sources.length;
        holds = references.length > next;
        after = holds ? Long.parseLong((String) references[next]) : 0L;
        bound = holds ? Long.parseLong((String) references[next + 1]) : 0L;
        maxHold = holds ? Long.parseLong((String) references[next + 2]) : 0L;
    }

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        ListStateDescriptor descriptor =
                new ListStateDescriptor("time-v1", LongPrimitiveArraySerializer.INSTANCE);
        kept = context.getOperatorStateStore().getUnionListState(descriptor);
        // What all subtasks had seen holds for any of them: the sources go back to their positions
        // of the same checkpoint. So the least of each counts.
        long[] least = null;
        for (Iterator all = ((Iterable) kept.get()).iterator(); all.hasNext(); ) {
            long[] one = (long[]) all.next();
            if (least == null) {
                least = (long[]) one.clone();
                continue;
            }
            boolean bothHold = least[HOLDING] != 0L && one[HOLDING] != 0L;
            if (one[HOLDING] != 0L && !bothHold) {
                least[FROM] = one[FROM];
                least[HOLDING] = 1L;
            } else if (bothHold) {
                least[FROM] = Math.min(least[FROM], one[FROM]);
            }
            for (int i = ARRIVED; i < FROM; i++) {
                least[i] = Math.min(least[i], one[i]);
            }
            // all are of one checkpoint, so of the same sources in the same order
            for (int i = SIZE + 1; i < least.length; i += 2) {
                least[i] = Math.min(least[i], one[i]);
            }
        }
        if (least != null) {
            arrived = least[ARRIVED];
            sent = least[SENT];
            progress[FEATURES] = least[PROGRESS + FEATURES];
            progress[ACTIONS] = least[PROGRESS + ACTIONS];
            from = least[FROM];
            holding = holds && least[HOLDING] != 0L;
            for (int i = 0; i < sources.length; i++) {
                shown[i] = named ? NEVER : progress[streamOf(i)];
                for (int pair = SIZE; pair < least.length; pair += 2) {
                    if (named && least[pair] == hashOf(i)) {
                        shown[i] = least[pair + 1];
                    }
                }
            }
        }
    }

    private int streamOf(int source) {
        return names[source][0] == 'a' ? ACTIONS : FEATURES;
    }

    /** FNV-1a of its name. */
    private long hashOf(int source) {
        long hash = 0xcbf29ce484222325L;
        for (int i = 0; i < names[source].length; i++) {
            hash = (hash ^ (names[source][i] & 0xffL)) * 0x100000001b3L;
        }
        return hash;
    }

    public void snapshotState(StateSnapshotContext context) throws Exception {
        super.snapshotState(context);
        long[] now = new long[SIZE + (named ? 2 * sources.length : 0)];
        for (int i = 0; named && i < sources.length; i++) {
            now[SIZE + 2 * i] = hashOf(i);
            now[SIZE + 2 * i + 1] = shown[i];
        }
        now[ARRIVED] = arrived;
        now[SENT] = sent;
        now[PROGRESS + FEATURES] = progress[FEATURES];
        now[PROGRESS + ACTIONS] = progress[ACTIONS];
        now[FROM] = from;
        now[HOLDING] = holding ? 1L : 0L;
        kept.update(Collections.singletonList(now));
    }

    public void open() throws Exception {
        super.open();
        speaks = getRuntimeContext().getTaskInfo().getIndexOfThisSubtask() == 0;
        MetricGroup group = getMetricGroup();
        silences = group.counter("label_silence_holds");
        group.gauge(
                "label_silence_held_ms",
                new Gauge() {
                    public Object getValue() {
                        return Long.valueOf(heldMs());
                    }
                });
        group.gauge("watermark_ms", watermark);
        watermark.set(sent);
        String[] streams = {"features", "actions"};
        for (int stream = FEATURES; stream <= ACTIONS; stream++) {
            newest[stream].set(progress[stream]);
            group.addGroup("stream", streams[stream]).gauge("newest_event_ms", newest[stream]);
        }
        for (int i = 0; named && i < sources.length; i++) {
            newestOf[i].set(shown[i]);
            group.addGroup("source", sources[i]).gauge("newest_event_ms", newestOf[i]);
        }
        // Flink opens operators from the last to the first, so the join can take this already.
        String key = OwnKeys.first(beacon, getRuntimeContext().getTaskInfo());
        for (int i = 0; i < sources.length; i++) {
            if (shown[i] != NEVER) {
                Row row = new Row(2);
                row.setField(0, key);
                row.setField(1, beaconOf(i));
                output.collect(new StreamRecord(row));
            }
        }
        if (sent != NEVER) {
            output.emitWatermark(new Watermark(sent));
            if (holding && speaks) {
                LOG.warn("labels are held, as before the restart: {}", lastAction());
            }
            advance();
        }
    }

    private byte[] beaconOf(int source) {
        byte[] head = beaconHead[source];
        return ByteBuffer.allocate(head.length + 8).put(head).putLong(shown[source]).array();
    }

    /** The source with this name; -1: none, as it was taken out of the configuration. */
    private int sourceOf(byte[] bytes, int at, int length) {
        for (int i = 0; i < names.length; i++) {
            int same = 0;
            while (same < length && same < names[i].length && bytes[at + same] == names[i][same]) {
                same++;
            }
            if (same == length && same == names[i].length) {
                return i;
            }
        }
        return -1;
    }

    long heldMs() {
        return holding && sent != NEVER ? arrived - sent : 0L;
    }

    private String lastAction() {
        return progress[ACTIONS] == NEVER
                ? "no action since the start"
                : "no action since " + progress[ACTIONS] + " (epoch ms)";
    }

    public void processElement(StreamRecord record) throws Exception {
        String key = (String) ((Row) record.getValue()).getField(0);
        output.collect(record);
        if (key.startsWith(beacon)) {
            // schemas.events.Progress: tag, source, time
            Packed in = new Packed((byte[]) ((Row) record.getValue()).getField(1));
            in.array();
            int tag = in.text();
            in.at += tag;
            int name = in.text();
            int stream = in.bytes[in.at] == 'a' ? ACTIONS : FEATURES;
            int source = sourceOf(in.bytes, in.at, name);
            in.at += name;
            long time = in.integer();
            if (source >= 0 && time > shown[source]) {
                shown[source] = time;
                newestOf[source].set(time);
            }
            if (time > progress[stream]) {
                progress[stream] = time;
                newest[stream].set(time);
                if (holds && stream == ACTIONS) {
                    advance();
                }
            }
        }
    }

    public void processWatermark(Watermark mark) throws Exception {
        if (mark.getTimestamp() != Long.MAX_VALUE) {
            arrived = Math.max(arrived, mark.getTimestamp());
            advance();
        }
    }

    public void processWatermarkStatus(WatermarkStatus status) throws Exception {
        // the join stays active
    }

    public void endInput() throws Exception {
        if (!ended) {
            ended = true;
            output.emitWatermark(Watermark.MAX_WATERMARK);
        }
    }

    private void advance() throws Exception {
        if (arrived == NEVER) {
            return;
        }
        long to = arrived;
        if (holds) {
            long actions = progress[ACTIONS];
            if (holding ? actions >= arrived : actions == NEVER || arrived > actions + after) {
                holding = !holding;
                from = actions == NEVER ? NEVER : actions + after;
                if (speaks && holding) {
                    silences.inc();
                    LOG.warn(
                            "labels are held: {}, and features are at {}",
                            lastAction(),
                            Long.toString(arrived));
                } else if (speaks) {
                    LOG.info("actions flow again, at {} (epoch ms)", Long.toString(actions));
                }
            }
            if (holding) {
                long caughtUp = actions == NEVER ? NEVER : actions - bound;
                to = Math.min(arrived, Math.max(Math.max(from, caughtUp), arrived - maxHold));
            }
        }
        if (to > sent) {
            sent = to;
            watermark.set(to);
            output.emitWatermark(new Watermark(to));
        }
    }
}
