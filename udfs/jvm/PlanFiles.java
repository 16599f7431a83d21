// Files that a checkpoint has finished in, work on them out (CoordinatorOutput). One subtask for all.
// Files that are to be compacted are packed into units of the target size. For other files an empty
// unit says that their partition has new rows, so that the partition gets its _SUCCESS.
//
// Follows Flink's CompactCoordinator, which compacts every file. Here a job has the same operators and
// state with and without compaction, so `output.compact` may change over a savepoint.

import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Function;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeutils.base.ListSerializer;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.api.common.typeutils.base.MapSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.connector.file.table.BinPacking;
import org.apache.flink.connector.file.table.stream.TaskTracker;
import org.apache.flink.connector.file.table.stream.compact.CompactMessages;
import org.apache.flink.core.fs.Path;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;

public final class PlanFiles extends AbstractStreamOperator implements OneInputStreamOperator {
    private final long targetSize;
    /** By checkpoint, then by partition: the files that were begun before it. */
    private final TreeMap begun = new TreeMap();
    private Map current = new HashMap();

    private transient ListState kept;
    private transient TaskTracker writers;

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

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        ListSerializer paths = new ListSerializer(StringSerializer.INSTANCE);
        MapSerializer byPartition = new MapSerializer(StringSerializer.INSTANCE, paths);
        kept =
                context.getOperatorStateStore()
                        .getListState(
                                new ListStateDescriptor(
                                        "files-v1",
                                        new MapSerializer(LongSerializer.INSTANCE, byPartition)));
        for (Iterator all = ((Iterable) kept.get()).iterator(); all.hasNext(); ) {
            begun.putAll((Map) all.next());
        }
    }

    public void snapshotState(StateSnapshotContext context) throws Exception {
        super.snapshotState(context);
        begun.put(Long.valueOf(context.getCheckpointId()), current);
        current = new HashMap();
        kept.update(Collections.singletonList(new HashMap(begun)));
    }

    public void processElement(StreamRecord record) throws Exception {
        Object message = record.getValue();
        if (message instanceof CompactMessages.InputFile) {
            CompactMessages.InputFile file = (CompactMessages.InputFile) message;
            List files = (List) current.get(file.getPartition());
            if (files == null) {
                files = new ArrayList();
                current.put(file.getPartition(), files);
            }
            files.add(file.getFile().toString());
            return;
        }
        CompactMessages.EndCheckpoint end = (CompactMessages.EndCheckpoint) message;
        if (writers == null) {
            writers = new TaskTracker(end.getNumberOfTasks());
        }
        if (writers.add(end.getCheckpointId(), end.getTaskId())) {
            finished(end.getCheckpointId());
        }
    }

    /** Every writer has finished what it had begun before this checkpoint. */
    private void finished(long checkpoint) throws Exception {
        Map due = begun.headMap(Long.valueOf(checkpoint), true);
        for (Iterator all = due.values().iterator(); all.hasNext(); ) {
            plan((Map) all.next());
        }
        due.clear();
        if (checkpoint == Long.MAX_VALUE) {
            plan(current);
            current = new HashMap();
        }
        output.collect(new StreamRecord(new CompactMessages.EndCompaction(checkpoint)));
    }

    private void plan(Map files) throws Exception {
        // After a failure the same files make the same units: each is done at most once.
        int unit = 0;
        for (Iterator all = new TreeMap(files).entrySet().iterator(); all.hasNext(); ) {
            Map.Entry ofPartition = (Map.Entry) all.next();
            String partition = (String) ofPartition.getKey();
            List paths = new ArrayList((List) ofPartition.getValue());
            Collections.sort(paths);
            List toCompact = new ArrayList();
            for (int i = 0; i < paths.size(); i++) {
                Path path = new Path((String) paths.get(i));
                if (ParquetFiles.uncompacted(path)) {
                    toCompact.add(path);
                }
            }
            if (toCompact.size() < paths.size()) {
                send(unit++, partition, Collections.EMPTY_LIST);
            }
            Iterator units = BinPacking.pack(toCompact, new Size(), targetSize).iterator();
            while (units.hasNext()) {
                send(unit++, partition, (List) units.next());
            }
        }
    }

    private void send(int unit, String partition, List paths) {
        output.collect(
                new StreamRecord(new CompactMessages.CompactionUnit(unit, partition, paths)));
    }

    static final class Size implements Function {
        public Object apply(Object path) {
            try {
                return Long.valueOf(((Path) path).getFileSystem().getFileStatus((Path) path).getLen());
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }
}
