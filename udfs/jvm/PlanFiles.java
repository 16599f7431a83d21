// Messages about files in and out (ParquetFiles.message). One subtask for all. The files that were
// finished for one checkpoint and are to be compacted are packed into units of the target size, by
// partition; other files pass through. Everything goes on before the barrier of that checkpoint, so no
// state is kept here, a unit never has files of two checkpoints, and so none of two schemas.

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Function;
import org.apache.flink.connector.file.table.BinPacking;
import org.apache.flink.core.fs.Path;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.types.Row;

public final class PlanFiles extends AbstractStreamOperator
        implements OneInputStreamOperator, BoundedOneInput {
    private final long targetSize;
    /** By partition: messages about files that are to be compacted, by their name. */
    private final TreeMap finished = new TreeMap();

    /** references[0]: how large a compacted file is to be (bytes). */
    public PlanFiles(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        targetSize = Long.parseLong((String) references[0]);
    }

    public void processElement(StreamRecord record) throws Exception {
        Row file = (Row) record.getValue();
        if (ParquetFiles.token(file) != null) {
            output.collect(new StreamRecord(file));
            return;
        }
        TreeMap files = (TreeMap) finished.get(ParquetFiles.partition(file));
        if (files == null) {
            files = new TreeMap();
            finished.put(ParquetFiles.partition(file), files);
        }
        files.put(ParquetFiles.file(file).toString(), file);
    }

    public void prepareSnapshotPreBarrier(long checkpoint) throws Exception {
        super.prepareSnapshotPreBarrier(checkpoint);
        plan();
    }

    public void endInput() throws Exception {
        plan();
    }

    private void plan() throws Exception {
        for (Iterator all = finished.entrySet().iterator(); all.hasNext(); ) {
            Map.Entry ofPartition = (Map.Entry) all.next();
            List files = new ArrayList(((Map) ofPartition.getValue()).values());
            Iterator units = BinPacking.pack(files, new Size(), targetSize).iterator();
            while (units.hasNext()) {
                send((String) ofPartition.getKey(), (List) units.next());
            }
        }
        finished.clear();
    }

    private void send(String partition, List files) {
        String[] inputs = new String[files.size()];
        long size = 0L;
        for (int i = 0; i < inputs.length; i++) {
            inputs[i] = ParquetFiles.file((Row) files.get(i)).toString();
            size += ParquetFiles.size((Row) files.get(i));
        }
        Path target = ParquetFiles.compacted(new Path(inputs[0]));
        output.collect(
                new StreamRecord(ParquetFiles.message(partition, target, size, null, inputs)));
    }

    static final class Size implements Function {
        public Object apply(Object file) {
            return Long.valueOf(ParquetFiles.size((Row) file));
        }
    }
}
