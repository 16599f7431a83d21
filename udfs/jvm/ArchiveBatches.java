// Kafka's records in, as WholeRecords.java makes them; rows of the archive out (schemas/archive.py). Python
// is asked for many of them at once (see UnkeyedBatches.java) what the decoders say of a value;
// udfs/core/archive_batches.py says what is in a batch and in a reply. The bytes of a record go from the
// source to the file as they are; Python gets a copy of the value, and of the header that names its schema.

import java.time.Instant;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.List;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.data.ArrayData;
import org.apache.flink.table.data.GenericArrayData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.binary.BinaryStringData;

public final class ArchiveBatches extends UnkeyedBatches {
    /** The columns of a record; behind them come what Python says, and the partition. */
    private static final int TIMESTAMP = 3, VALUE = 6, EVENT_TIME = 9;
    private static final int HEADER_KEYS = 7, HEADER_VALUES = 8;
    private static final int ITEMS = 12, MESSAGE = 14, DAY = 15, HOUR = 16, WIDTH = 17;
    private static final long HOUR_MS = 3600000L;

    private final long earliest, latest;
    private final String header;

    private transient List records;
    private transient StringData headerKey;
    private transient StreamRecord out;
    /** The hour of the last row, since 1970, and the partition of it. */
    private transient long lastHour;
    private transient StringData lastDay, lastHourOfDay;

    /**
     * references: see Hosted; then the first and (not included) the last time that is one (ms): a
     * record with another timestamp goes to the first hour of 1970; then the header that names a schema.
     */
    public ArchiveBatches(
            Object[] references,
            StreamTask task,
            StreamConfig streamConfig,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        super(references, task, streamConfig, output, processingTime);
        earliest = Long.parseLong((String) references[hosted.end]);
        latest = Long.parseLong((String) references[hosted.end + 1]);
        header = (String) references[hosted.end + 2];
    }

    public void open() throws Exception {
        records = new ArrayList();
        headerKey = BinaryStringData.fromString(header);
        out = new StreamRecord(null);
        lastHour = Long.MIN_VALUE;
        super.open();
    }

    void add(RowData row, Packing to) {
        to.array(3);
        if (row.isNullAt(VALUE)) {
            to.nil();
        } else {
            byte[] value = row.getBinary(VALUE);
            to.binary(value, 0, value.length);
        }
        to.integer(row.getLong(TIMESTAMP));
        byte[] schema = schemaId(row.getArray(HEADER_KEYS), row.getArray(HEADER_VALUES));
        if (schema == null) {
            to.nil();
        } else {
            to.binary(schema, 0, schema.length);
        }
        records.add(row);
    }

    /** Of the last header of that name; null: there is none. */
    private byte[] schemaId(ArrayData keys, ArrayData values) {
        for (int i = keys.size() - 1; i >= 0; i--) {
            if (keys.getString(i).equals(headerKey)) {
                return values.isNullAt(i) ? null : values.getBinary(i);
            }
        }
        return null;
    }

    /** The reply: [for each record: event time, request id, user id, items, reason, message; reports]. */
    boolean perform(byte[] reply) throws Exception {
        Packed in = new Packed(reply);
        in.array();
        int n = in.array();
        for (int i = 0; i < n; i++) {
            GenericRowData row = whole((RowData) records.get(i));
            in.array();
            row.setField(EVENT_TIME, in.nil() ? null : Long.valueOf(in.integer()));
            for (int column = EVENT_TIME + 1; column < ITEMS; column++) {
                row.setField(column, text(in));
            }
            row.setField(ITEMS, texts(in));
            for (int column = ITEMS + 1; column <= MESSAGE; column++) {
                row.setField(column, text(in));
            }
            output.collect(out.replace(row));
        }
        records.clear();
        reports.perform(in, output);
        return false;
    }

    /** A row of the archive with what the record has, and its partition. */
    private GenericRowData whole(RowData record) {
        GenericRowData row = new GenericRowData(WIDTH);
        row.setField(0, record.getString(0));
        row.setField(1, Integer.valueOf(record.getInt(1)));
        row.setField(2, Long.valueOf(record.getLong(2)));
        long time = record.getLong(TIMESTAMP);
        row.setField(TIMESTAMP, Long.valueOf(time));
        row.setField(4, record.getString(4));
        for (int column = 5; column <= VALUE; column++) {
            row.setField(column, record.isNullAt(column) ? null : record.getBinary(column));
        }
        for (int column = VALUE + 1; column <= HEADER_VALUES; column++) {
            row.setField(column, record.getArray(column));
        }
        long hour = time < earliest || time >= latest ? 0L : time / HOUR_MS;
        if (hour != lastHour) {
            lastHour = hour;
            String name = Instant.ofEpochMilli(hour * HOUR_MS).atOffset(ZoneOffset.UTC).toString();
            lastDay = BinaryStringData.fromString(name.substring(0, 10));
            lastHourOfDay = BinaryStringData.fromString(name.substring(11, 13));
        }
        row.setField(DAY, lastDay);
        row.setField(HOUR, lastHourOfDay);
        return row;
    }

    /** A text where it is in the reply, or null. */
    private static StringData text(Packed in) {
        if (in.nil()) {
            return null;
        }
        int size = in.text();
        int from = in.at;
        in.at += size;
        return BinaryStringData.fromBytes(in.bytes, from, size);
    }

    private static GenericArrayData texts(Packed in) {
        int n = in.array();
        if (n < 0) {
            return null;
        }
        Object[] texts = new Object[n];
        for (int i = 0; i < n; i++) {
            texts[i] = text(in);
        }
        return new GenericArrayData(texts);
    }
}
