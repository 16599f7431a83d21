// One packed request in (udfs/core/wire.py: SampleRows, msgpack), a row for each impression out.
//
// Strings are not decoded: the rows hold slices of the packed bytes, so an impression costs references
// and no copies.
//
// Janino, Flink's own compiler of generated code, knows no generics and no lambdas.

import java.util.ArrayList;
import java.util.List;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.data.GenericArrayData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.binary.BinaryStringData;
import shaded.parquet.net.openhft.hashing.LongHashFunction;

public final class ExplodeSamples extends AbstractStreamOperator implements OneInputStreamOperator {
    private static final int BOOL = 0, BYTE = 1, LONG = 2, FLOAT = 3, DOUBLE = 4, STRING = 5, INT = 6;
    /** Added to the type of its elements. */
    private static final int LIST = 16;
    /** Columns before the features, and after the labels. */
    private static final int FRONT = 6, MARKS = 7;

    private final int[] contextColumn, contextType, itemColumn, itemType, labelType;
    private final Object[] labelDefault;
    private final int width;
    private final StreamRecord out = new StreamRecord(null);

    private static final LongHashFunction HASH = LongHashFunction.xx3();
    /** Where the item id begins in what is hashed. */
    private static final int NAME = 16;

    private transient Packed in;
    /** What a sample id is the hash of: the request's hash, the position, the item id. */
    private transient byte[] named = new byte[256];

    /** references[0]: what the columns are, a word each, as udfs.core.wire.sample_layout says it. */
    public ExplodeSamples(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        String[] words = ((String) references[0]).split(" ");
        List contexts = new ArrayList(), items = new ArrayList(), labels = new ArrayList();
        for (int i = 0; i < words.length; i++) {
            String[] parts = words[i].split(":");
            if (parts[0].equals("context")) {
                contexts.add(new Object[] {Integer.valueOf(parts[1]), parts[2]});
            } else if (parts[0].equals("item")) {
                items.add(new Object[] {Integer.valueOf(parts[1]), parts[2]});
            } else {
                labels.add(parts[1]);
            }
        }
        contextColumn = columns(contexts);
        contextType = types(contexts);
        itemColumn = columns(items);
        itemType = types(items);
        labelType = new int[labels.size()];
        labelDefault = new Object[labels.size()];
        for (int k = 0; k < labelType.length; k++) {
            String label = (String) labels.get(k);
            if (label.equals("any")) {
                labelType[k] = BYTE;
                labelDefault[k] = Byte.valueOf((byte) 0);
            } else if (label.equals("count")) {
                labelType[k] = LONG;
                labelDefault[k] = Long.valueOf(0L);
            } else {
                labelType[k] = DOUBLE;
                labelDefault[k] = label.equals("sum") ? Double.valueOf(0.0) : null;
            }
        }
        width = FRONT + contextColumn.length + itemColumn.length + 3 * labelType.length + MARKS;
    }

    private static int[] columns(List fields) {
        int[] columns = new int[fields.size()];
        for (int i = 0; i < columns.length; i++) {
            columns[i] = FRONT + ((Integer) ((Object[]) fields.get(i))[0]).intValue();
        }
        return columns;
    }

    private static int[] types(List fields) {
        int[] types = new int[fields.size()];
        for (int i = 0; i < types.length; i++) {
            types[i] = type((String) ((Object[]) fields.get(i))[1]);
        }
        return types;
    }

    private static int type(String name) {
        if (name.startsWith("list<")) {
            return LIST + type(name.substring(5, name.length() - 1));
        }
        if (name.equals("bool")) {
            return BOOL;
        }
        if (name.equals("int64")) {
            return LONG;
        }
        if (name.equals("float32")) {
            return FLOAT;
        }
        if (name.equals("float64")) {
            return DOUBLE;
        }
        if (name.equals("string")) {
            return STRING;
        }
        throw new IllegalArgumentException("no such type: " + name);
    }

    public void processElement(StreamRecord record) throws Exception {
        in = new Packed((byte[]) record.getValue());
        GenericRowData row = new GenericRowData(width);
        in.array();
        BinaryStringData request = (BinaryStringData) value(STRING);
        row.setField(1, request);
        row.setField(5, value(LONG));
        row.setField(width - 2, value(STRING));
        row.setField(width - 1, value(STRING));
        int n = (int) in.integer();
        in.binary(); // the body of the request lies in here as it was stored
        in.array();
        row.setField(2, value(STRING));
        Object[] items = values(STRING);
        in.skipTexts();
        in.array();
        for (int i = 0; i < contextColumn.length; i++) {
            row.setField(contextColumn[i], value(contextType[i]));
        }
        in.skipTexts();
        in.array();
        Object[][] columns = new Object[itemColumn.length][];
        for (int i = 0; i < columns.length; i++) {
            columns[i] = values(itemType[i]);
        }
        in.array();
        int label = width - MARKS - 3 * labelType.length;
        Object[][] labels = new Object[labelType.length][], delays = new Object[labelType.length][];
        for (int k = 0; k < labelType.length; k++) {
            in.array();
            labels[k] = values(labelType[k]);
            delays[k] = values(LONG);
            row.setField(label + 3 * k, labelDefault[k]);
            row.setField(label + 3 * k + 2, value(BOOL));
        }
        row.setField(width - 3, value(STRING));
        row.setField(width - 7, value(LONG));
        Object[] exposed = values(BOOL), rates = values(DOUBLE), versions = values(INT);
        Object[] positions = values(INT);
        int count = positions == null ? n : positions.length;
        putLong(0, HASH.hashBytes(in.bytes, request.getOffset(), request.getSizeInBytes()));
        for (int i = 0; i < count; i++) {
            int p = positions == null ? i : ((Integer) positions[i]).intValue();
            row.setField(0, Long.valueOf(sampleId(p, (BinaryStringData) items[p])));
            row.setField(3, items[p]);
            row.setField(4, Integer.valueOf(p));
            for (int f = 0; f < itemColumn.length; f++) {
                row.setField(itemColumn[f], columns[f][p]);
            }
            for (int k = 0; k < labelType.length; k++) {
                if (labels[k] != null) {
                    row.setField(label + 3 * k, labels[k][p]);
                    row.setField(label + 3 * k + 1, delays[k][p]);
                }
            }
            row.setField(width - 6, exposed == null ? null : exposed[p]);
            row.setField(width - 5, rates == null ? UNSAMPLED : rates[p]);
            row.setField(width - 4, versions == null ? FIRST : versions[p]);
            output.collect(out.replace(row));
        }
    }

    /** docs/sample-format.md: XXH3-64 of the request's hash, which is in `named`, position and item. */
    private long sampleId(int position, BinaryStringData item) {
        int size = item.getSizeInBytes(), end = NAME + size;
        if (named.length < end) {
            byte[] more = new byte[2 * end];
            System.arraycopy(named, 0, more, 0, 8);
            named = more;
        }
        putLong(8, position);
        System.arraycopy(in.bytes, item.getOffset(), named, NAME, size);
        return HASH.hashBytes(named, 0, end);
    }

    private void putLong(int at, long value) {
        for (int i = 0; i < 8; i++) {
            named[at + i] = (byte) (value >>> 8 * i);
        }
    }

    private static final Double UNSAMPLED = Double.valueOf(1.0);
    private static final Integer FIRST = Integer.valueOf(0);

    private Object[] values(int type) {
        int n = in.array();
        if (n < 0) {
            return null;
        }
        Object[] values = new Object[n];
        for (int i = 0; i < n; i++) {
            values[i] = value(type);
        }
        return values;
    }

    private Object value(int type) {
        if (type >= LIST) {
            Object[] values = values(type - LIST);
            return values == null ? null : new GenericArrayData(values);
        }
        if (in.nil()) {
            return null;
        }
        switch (type) {
            case STRING:
                int size = in.text();
                in.at += size;
                return BinaryStringData.fromBytes(in.bytes, in.at - size, size);
            case DOUBLE:
                return Double.valueOf(in.real());
            case FLOAT:
                return Float.valueOf((float) in.real());
            case LONG:
                return Long.valueOf(in.integer());
            case INT:
                return Integer.valueOf((int) in.integer());
            case BYTE:
                return Byte.valueOf((byte) in.integer());
            default:
                return in.bool() ? Boolean.TRUE : Boolean.FALSE;
        }
    }
}
