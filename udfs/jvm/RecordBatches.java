// Table rows in; one call of Python for many of them (see UnkeyedBatches.java); (key, packed event) out.
// udfs/core/decode_batches.py says what is in a batch and in a reply.
//
// A source that has no watermark of its own gets it from the events: each may carry a clock. (Flink's
// own generators of the DataStream API emit by the wall clock, and the outcome of a bounded run must
// not depend on that.) Where InOrder.java is to put the events in order, each carries its clock as its
// time, and its place as a third field.

import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.data.RowData;
import org.apache.flink.types.Row;

public final class RecordBatches extends UnkeyedBatches {
    private final String types;
    private final boolean byClock;
    private final boolean placed;

    /** The latest clock of an event; the watermark is 1 ms behind it. */
    private transient long reached;

    /**
     * references: see Hosted; then a letter for each column of the rows (see `field`); "clock" if the
     * watermark is that of the events, else "source"; or "places", with the source's watermark.
     */
    public RecordBatches(
            Object[] references,
            StreamTask task,
            StreamConfig streamConfig,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        super(references, task, streamConfig, output, processingTime);
        types = (String) references[hosted.end];
        byClock = "clock".equals(references[hosted.end + 1]);
        placed = "places".equals(references[hosted.end + 1]);
    }

    void add(RowData row, Packing to) {
        to.array(types.length());
        for (int i = 0; i < types.length(); i++) {
            if (row.isNullAt(i)) {
                to.nil();
            } else {
                field(row, i, to);
            }
        }
    }

    /** s: text; b: bytes; i: int; l: long; t: timestamp, as epoch ms. */
    private void field(RowData row, int i, Packing to) {
        switch (types.charAt(i)) {
            case 's':
                to.utf8(row.getString(i).toBytes());
                break;
            case 'b':
                byte[] bytes = row.getBinary(i);
                to.binary(bytes, 0, bytes.length);
                break;
            case 'i':
                to.integer(row.getInt(i));
                break;
            case 'l':
                to.integer(row.getLong(i));
                break;
            case 't':
                to.integer(row.getTimestamp(i, 3).getMillisecond());
                break;
            default:
                throw new IllegalArgumentException("no such type: " + types.charAt(i));
        }
    }

    public void processWatermark(Watermark mark) throws Exception {
        flush();
        // of the source's own, only the last counts where events carry the clock
        if (!byClock || mark.getTimestamp() == Long.MAX_VALUE) {
            output.emitWatermark(mark);
        }
    }

    /**
     * The reply: [whether there is more, events: [key, event, clock], reports]; with places,
     * a place behind each clock.
     */
    boolean perform(byte[] reply) throws Exception {
        Packed in = new Packed(reply);
        in.array();
        boolean more = in.bool();
        int n = in.array();
        for (int i = 0; i < n; i++) {
            in.array();
            Row row = new Row(placed ? 3 : 2);
            row.setField(0, in.string());
            row.setField(1, in.packed());
            long clock = in.integer();
            if (placed) {
                row.setField(2, Long.valueOf(in.integer()));
                output.collect(new StreamRecord(row, clock));
                continue;
            }
            output.collect(new StreamRecord(row));
            if (clock > reached) {
                reached = clock;
                output.emitWatermark(new Watermark(clock - 1L));
            }
        }
        reports.perform(in, output);
        return more;
    }
}
