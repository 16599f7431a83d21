

// (key, packed event) in and out, behind an unbounded Kafka source. The watermark that goes out
// never comes closer to the clock than `lag`: until then, a partition that was just added may not
// have been found, and its records would be late (docs/join-semantics.md 15).

import org.apache.flink.metrics.Gauge;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;

public final class AwaitPartitions extends AbstractStreamOperator
        implements OneInputStreamOperator, ProcessingTimeService.ProcessingTimeCallback {
    private static final long NEVER = Long.MIN_VALUE;
    /** How often (ms) a held watermark is moved on. */
    private static final long STEP = 200L;

    private final long lag;
    private final long settling;

    private long arrived = NEVER;
    private long sent = NEVER;
    /** After a restore: the partitions that were added meanwhile are found until then. */
    private long closedUntil = NEVER;
    private boolean timer = false;
    private boolean idle = false;

    /** references: the lag, and how long finding partitions takes (ms). */
    public AwaitPartitions(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setup(task, config, output);
        setProcessingTimeService(processingTime);
        lag = Long.parseLong((String) references[0]);
        settling = Long.parseLong((String) references[1]);
    }

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        // True whenever the job goes on from a snapshot, also here, where there is no state: Flink
        // tells it by the number of the restored checkpoint.
        if (context.isRestored()) {
            closedUntil = now() + settling;
        }
    }

    public void open() throws Exception {
        super.open();
        getMetricGroup()
                .gauge(
                        "watermark_held_ms",
                        new Gauge() {
                            public Object getValue() {
                                return Long.valueOf(heldMs());
                            }
                        });
    }

    long heldMs() {
        return sent == NEVER ? 0L : arrived - sent;
    }

    public void processElement(StreamRecord record) throws Exception {
        output.collect(record);
    }

    public void processWatermark(Watermark mark) throws Exception {
        if (mark.getTimestamp() == Long.MAX_VALUE) {
            // the end of the input: nothing is to come, from no partition
            sent = Long.MAX_VALUE;
            arrived = Long.MAX_VALUE;
            super.processWatermark(mark);
            return;
        }
        arrived = Math.max(arrived, mark.getTimestamp());
        advance();
    }

    /** What is held goes out before the stream is called idle: an idle channel sends no watermark. */
    public void processWatermarkStatus(WatermarkStatus status) throws Exception {
        idle = status.isIdle();
        if (idle && arrived > sent) {
            wake();
        } else {
            super.processWatermarkStatus(status);
        }
    }

    public void onProcessingTime(long time) throws Exception {
        timer = false;
        advance();
        if (idle && arrived <= sent) {
            super.processWatermarkStatus(WatermarkStatus.IDLE);
        }
    }

    private void advance() throws Exception {
        long now = now();
        if (now >= closedUntil) {
            long to = Math.min(arrived, now - lag);
            if (to > sent) {
                sent = to;
                output.emitWatermark(new Watermark(to));
            }
        }
        if (arrived > sent) {
            wake();
        }
    }

    private void wake() {
        if (!timer) {
            timer = true;
            getProcessingTimeService().registerTimer(now() + STEP, this);
        }
    }

    private long now() {
        return getProcessingTimeService().getCurrentProcessingTime();
    }
}
