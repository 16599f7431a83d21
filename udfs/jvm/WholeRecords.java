// Kafka's records whole, as internal rows: topic, partition, offset, timestamp, its type, key, value, the
// keys of the headers and their values. Flink's table source gives headers as a map, which keeps one of
// several headers with one key, and no order.
//
// It is an object of the source, not an operator, so it cannot go to the cluster as text: it is compiled
// when the job is submitted, and goes in a jar (udfs/operators/shipped.py).

import java.io.IOException;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.kafka.shaded.org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.flink.kafka.shaded.org.apache.kafka.common.header.Header;
import org.apache.flink.table.data.GenericArrayData;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.StringData;
import org.apache.flink.table.data.binary.BinaryStringData;
import org.apache.flink.util.Collector;

public final class WholeRecords implements KafkaRecordDeserializationSchema {
    private static final long serialVersionUID = 1L;

    private final TypeInformation type;
    private transient String lastTopic;
    private transient StringData lastTopicData;

    /** type: of the rows, which have the nine columns above. */
    public WholeRecords(TypeInformation type) {
        this.type = type;
    }

    public void open(DeserializationSchema.InitializationContext context) {}

    public void deserialize(ConsumerRecord record, Collector out) throws IOException {
        GenericRowData row = new GenericRowData(9);
        String topic = record.topic();
        if (lastTopicData == null || !topic.equals(lastTopic)) {
            lastTopic = topic;
            lastTopicData = BinaryStringData.fromString(topic);
        }
        row.setField(0, lastTopicData);
        row.setField(1, Integer.valueOf(record.partition()));
        row.setField(2, Long.valueOf(record.offset()));
        row.setField(3, Long.valueOf(record.timestamp()));
        row.setField(4, BinaryStringData.fromString(record.timestampType().toString()));
        row.setField(5, record.key());
        row.setField(6, record.value());
        Header[] headers = record.headers().toArray();
        Object[] keys = new Object[headers.length], values = new Object[headers.length];
        for (int i = 0; i < headers.length; i++) {
            keys[i] = BinaryStringData.fromString(headers[i].key());
            values[i] = headers[i].value();
        }
        row.setField(7, new GenericArrayData(keys));
        row.setField(8, new GenericArrayData(values));
        out.collect(row);
    }

    public TypeInformation getProducedType() {
        return type;
    }
}
