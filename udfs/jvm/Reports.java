// What Python says in the reply to a batch beside its main output (udfs/core/batch_reply.py): counts,
// warnings, and rows for side outputs. No imports: this is put behind the operator that uses it.
//
// A count is a metric while the job runs and, at the end of the task, an accumulator of the same name,
// which is part of the job's result.

final class Reports {
    private final org.apache.flink.metrics.MetricGroup metrics;
    private final java.util.Map counters = new java.util.TreeMap();
    /** By counter: the names of its labels. */
    private final java.util.Map labels = new java.util.HashMap();
    private final org.apache.flink.util.OutputTag[] tags;
    private final String[] types;

    /**
     * counters: first `name:label,label` of those that have labels, then all that there are from the
     * beginning, as `name` or `name/value/value`. types: a letter a column, see `row`.
     */
    Reports(
            org.apache.flink.metrics.MetricGroup metrics,
            String counters,
            org.apache.flink.util.OutputTag[] tags,
            String[] types) {
        this.metrics = metrics;
        this.tags = tags;
        this.types = types;
        String[] names = counters.split(" ");
        for (int i = 0; i < names.length; i++) {
            int colon = names[i].indexOf(':');
            if (colon < 0) {
                counter(names[i]);
            } else {
                labels.put(names[i].substring(0, colon), names[i].substring(colon + 1).split(","));
            }
        }
    }

    private org.apache.flink.metrics.Counter counter(String name) {
        Object known = counters.get(name);
        if (known == null) {
            String[] path = name.split("/");
            String[] of = (String[]) labels.get(path[0]);
            org.apache.flink.metrics.MetricGroup group = metrics;
            for (int i = 1; i < path.length; i++) {
                group = group.addGroup(of[i - 1], path[i]);
            }
            known = group.counter(path[0]);
            counters.put(name, known);
        }
        return (org.apache.flink.metrics.Counter) known;
    }

    /** Does what is said. */
    void perform(Packed in, org.apache.flink.streaming.api.operators.Output output) {
        in.array();
        int n = in.array();
        for (int i = 0; i < n; i++) {
            in.array();
            String name = in.string();
            counter(name).inc(in.integer());
        }
        n = in.array();
        for (int i = 0; i < n; i++) {
            in.array();
            String topic = in.string();
            org.slf4j.LoggerFactory.getLogger("sample_stitch." + topic).warn("{}", in.string());
        }
        n = in.array();
        for (int i = 0; i < n; i++) {
            in.array();
            int side = (int) in.integer();
            output.collect(
                    tags[side],
                    new org.apache.flink.streaming.runtime.streamrecord.StreamRecord(
                            row(in, types[side])));
        }
    }

    /** l: integers; d: floating; b: bytes; s: texts. Each may be nil. */
    private static org.apache.flink.types.Row row(Packed in, String types) {
        int n = in.array();
        org.apache.flink.types.Row row = new org.apache.flink.types.Row(n);
        for (int i = 0; i < n; i++) {
            if (in.nil()) {
                continue;
            }
            char type = types.charAt(i);
            if (type == 'l') {
                row.setField(i, Long.valueOf(in.integer()));
            } else if (type == 'd') {
                row.setField(i, Double.valueOf(in.real()));
            } else if (type == 'b') {
                row.setField(i, in.content());
            } else {
                row.setField(i, in.string());
            }
        }
        return row;
    }

    /** The counts become part of the job's result; of those with labels, what there was. */
    void close(org.apache.flink.api.common.functions.RuntimeContext context) {
        for (java.util.Iterator all = counters.entrySet().iterator(); all.hasNext(); ) {
            java.util.Map.Entry entry = (java.util.Map.Entry) all.next();
            String name = (String) entry.getKey();
            long count = ((org.apache.flink.metrics.Counter) entry.getValue()).getCount();
            if (count != 0L || name.indexOf('/') < 0) {
                context.getLongCounter(name).add(count);
            }
        }
        counters.clear();
    }
}
