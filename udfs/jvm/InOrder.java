// One order for what parallel readers of an archive give, so that the outcome of a replay follows from the
// archive alone. (key, packed event, place) in, under the clock as its time; (key, packed event) out. It
// stands in front of the join, in each of its subtasks.
//
// The order is that of the clocks, then of the places (a partition each), then of the offsets, which
// arrive in order. A watermark of the readers says that all events up to it have arrived: they are then
// sent on. Before an event goes the watermark that follows from its clock: the join decides as if all
// partitions had been read equally far. What waits is kept in state.

import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;
import org.apache.flink.api.common.state.ListState;
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

public final class InOrder extends AbstractStreamOperator implements OneInputStreamOperator, Comparator {
    private final String beacon;
    private final long bound, step;

    /** Rows of key, event, place and clock, in the order of their arrival. */
    private final List held = new ArrayList();
    private long sent = Long.MIN_VALUE;
    private transient ListState kept;
    private transient StreamRecord out;

    /**
     * references: what the keys of beacons begin with; how far the watermark is behind the clock, and
     * in which steps it moves (ms).
     */
    public InOrder(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        beacon = (String) references[0];
        bound = Long.parseLong((String) references[1]);
        step = Long.parseLong((String) references[2]);
    }

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        kept =
                context.getOperatorStateStore()
                        .getUnionListState(HeldRows.descriptor("in-order-v1"));
        held.addAll(HeldRows.own((Iterable) kept.get(), beacon, getRuntimeContext().getTaskInfo()));
    }

    public void snapshotState(StateSnapshotContext context) throws Exception {
        super.snapshotState(context);
        kept.update(held);
    }

    public void open() throws Exception {
        super.open();
        out = new StreamRecord(null);
    }

    public void processElement(StreamRecord record) throws Exception {
        held.add(HeldRows.of(record));
    }

    public void processWatermark(Watermark mark) throws Exception {
        Collections.sort(held, this); // stable
        int due = 0;
        while (due < held.size() && clock(held.get(due)) <= mark.getTimestamp()) {
            Row one = (Row) held.get(due++);
            advance(clock(one));
            Row row = new Row(2);
            row.setField(HeldRows.KEY, one.getField(HeldRows.KEY));
            row.setField(HeldRows.EVENT, one.getField(HeldRows.EVENT));
            output.collect(out.replace(row));
        }
        held.subList(0, due).clear();
        if (mark.getTimestamp() == Long.MAX_VALUE) {
            output.emitWatermark(mark);
        } else {
            advance(mark.getTimestamp());
        }
    }

    private void advance(long clock) throws Exception {
        long to = clock - Math.floorMod(clock, step) - bound - 1L;
        if (to > sent) {
            sent = to;
            output.emitWatermark(new Watermark(to));
        }
    }

    private static long clock(Object row) {
        return ((Long) ((Row) row).getField(HeldRows.CLOCK)).longValue();
    }

    public int compare(Object a, Object b) {
        int order = Long.compare(clock(a), clock(b));
        return order != 0
                ? order
                : ((Long) ((Row) a).getField(HeldRows.PLACE))
                        .compareTo((Long) ((Row) b).getField(HeldRows.PLACE));
    }
}
