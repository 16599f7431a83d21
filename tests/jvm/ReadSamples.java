// Runs `ExplodeSamples` outside of a job, and says its rows as text. It is put before the sources of
// the operator, in one compilation unit, for Janino (no generics, no lambdas).

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.table.data.GenericArrayData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.binary.BinaryStringData;

public final class ReadSamples implements InvocationHandler {
    private final StringBuilder said = new StringBuilder();

    /** A line for each row; its fields, with tabs between them, as `said` of the test has them. */
    public static String rows(String layout, byte[] packed) throws Exception {
        ReadSamples reader = new ReadSamples();
        Object output =
                Proxy.newProxyInstance(
                        Output.class.getClassLoader(), new Class[] {Output.class}, reader);
        ExplodeSamples operator =
                new ExplodeSamples(new Object[] {layout}, null, null, (Output) output, null);
        operator.processElement(new StreamRecord(packed));
        return reader.said.toString();
    }

    public Object invoke(Object proxy, Method method, Object[] arguments) {
        if (!method.getName().equals("collect") || arguments.length != 1) {
            throw new IllegalStateException(method.getName());
        }
        GenericRowData row = (GenericRowData) ((StreamRecord) arguments[0]).getValue();
        for (int i = 0; i < row.getArity(); i++) {
            say(row.getField(i));
            said.append(i + 1 < row.getArity() ? '\t' : '\n');
        }
        return null;
    }

    private void say(Object value) {
        if (value == null) {
            said.append("null");
        } else if (value instanceof GenericArrayData) {
            Object[] values = ((GenericArrayData) value).toObjectArray();
            said.append('[');
            for (int i = 0; i < values.length; i++) {
                say(values[i]);
                said.append(' ');
            }
            said.append(']');
        } else if (value instanceof BinaryStringData) {
            // As it is in UTF-8: what the sink writes.
            byte[] bytes = ((BinaryStringData) value).toBytes();
            said.append("string:").append(bytes.length).append(':');
            said.append(java.util.Arrays.hashCode(bytes));
        } else if (value instanceof Double) {
            said.append("double:").append(Double.doubleToRawLongBits(((Double) value).doubleValue()));
        } else if (value instanceof Float) {
            said.append("float:").append(Float.floatToRawIntBits(((Float) value).floatValue()));
        } else {
            String type = value.getClass().getSimpleName().toLowerCase();
            said.append(type).append(':').append(value);
        }
    }
}
