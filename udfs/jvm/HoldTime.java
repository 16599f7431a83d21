// (key, packed event) in and out; the watermark is held while the action stream is silent
// (docs/join-semantics.md 10). It stands at the head of the join, one for each subtask; how far the
// streams are, it reads from the beacons of progress that every subtask gets.

import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.Gauge;
import org.apache.flink.metrics.MetricGroup;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.types.Row;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

public final class HoldTime extends AbstractStreamOperator implements OneInputStreamOperator {
    private static final Logger LOG = LoggerFactory.getLogger("sample_stitch.label_silence");
    private static final long NEVER = Long.MIN_VALUE;

    private final long after;
    private final long bound;
    private final long maxHold;
    private final String beacon;

    private long actions = NEVER;
    private long arrived = NEVER;
    private long sent = NEVER;
    /** Up to where a silence lets the watermark go in any case: A0 + T. */
    private long from = NEVER;
    private boolean holding = false;
    private transient Counter holds;

    /** references: T, B, M (ms), and what the keys of beacons begin with. */
    public HoldTime(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setup(task, config, output);
        setProcessingTimeService(processingTime);
        after = Long.parseLong((String) references[0]);
        bound = Long.parseLong((String) references[1]);
        maxHold = Long.parseLong((String) references[2]);
        beacon = (String) references[3];
    }

    public void open() throws Exception {
        super.open();
        MetricGroup group = getMetricGroup();
        holds = group.counter("label_silence_holds");
        group.gauge(
                "label_silence_held_ms",
                new Gauge() {
                    public Object getValue() {
                        return Long.valueOf(heldMs());
                    }
                });
    }

    long heldMs() {
        return holding && sent != NEVER ? arrived - sent : 0L;
    }

    public void processElement(StreamRecord record) throws Exception {
        String key = (String) ((Row) record.getValue()).getField(0);
        output.collect(record);
        if (key.startsWith(beacon)) {
            // schemas.events.Progress: tag, stream, time
            Packed in = new Packed((byte[]) ((Row) record.getValue()).getField(1));
            in.array();
            int tag = in.text();
            in.at += tag;
            int stream = in.text();
            boolean ofActions = in.bytes[in.at] == 'a';
            in.at += stream;
            long time = in.integer();
            if (ofActions && time > actions) {
                actions = time;
                advance();
            }
        }
    }

    public void processWatermark(Watermark mark) throws Exception {
        if (mark.getTimestamp() == Long.MAX_VALUE) {
            super.processWatermark(mark);
            return;
        }
        arrived = Math.max(arrived, mark.getTimestamp());
        advance();
    }

    private void advance() throws Exception {
        if (arrived == NEVER) {
            return;
        }
        if (holding ? actions >= arrived : actions == NEVER || arrived > actions + after) {
            holding = !holding;
            if (holding) {
                from = actions == NEVER ? NEVER : actions + after;
                holds.inc();
                LOG.warn(
                        "no action since {} (epoch ms), and features are at {}: labels are held",
                        actions == NEVER ? "the start" : Long.toString(actions),
                        Long.toString(arrived));
            } else {
                LOG.info("actions flow again, at {} (epoch ms)", Long.toString(actions));
            }
        }
        long to = arrived;
        if (holding) {
            long caughtUp = actions == NEVER ? NEVER : actions - bound;
            to = Math.min(arrived, Math.max(Math.max(from, caughtUp), arrived - maxHold));
        }
        if (to > sent) {
            sent = to;
            output.emitWatermark(new Watermark(to));
        }
    }
}
