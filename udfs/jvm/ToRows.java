// A row of a side output, as Python gives it, to the internal row that the files are written from.
//
// Whole numbers come as Long, and texts as String.

import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.binary.BinaryStringData;
import org.apache.flink.types.Row;

public final class ToRows extends AbstractStreamOperator implements OneInputStreamOperator {
    private final String[] types;
    private final StreamRecord out = new StreamRecord(null);

    /** references[0]: the SQL types of the columns, with blanks between them. */
    public ToRows(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        types = ((String) references[0]).split(" ");
    }

    public void processElement(StreamRecord record) throws Exception {
        Row in = (Row) record.getValue();
        GenericRowData row = new GenericRowData(types.length);
        for (int i = 0; i < types.length; i++) {
            row.setField(i, converted(types[i], in.getField(i)));
        }
        output.collect(out.replace(row));
    }

    private static Object converted(String type, Object value) {
        if (value == null) {
            return null;
        }
        if (type.equals("STRING")) {
            return BinaryStringData.fromString((String) value);
        }
        if (type.equals("BIGINT")) {
            return Long.valueOf(((Number) value).longValue());
        }
        if (type.equals("INT")) {
            return Integer.valueOf(Math.toIntExact(((Number) value).longValue()));
        }
        if (type.equals("DOUBLE")) {
            return Double.valueOf(((Number) value).doubleValue());
        }
        if (type.equals("BYTES")) {
            return value;
        }
        throw new IllegalArgumentException("no such type: " + type);
    }
}
