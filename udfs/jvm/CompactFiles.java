// Work on the files of a checkpoint in (CoordinatorOutput; every subtask gets all units and takes its
// share), the partitions that have new rows out (PartitionCommitInfo).
//
// Follows Flink's CompactOperator, whose state cannot be restored into more subtasks than it had.

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeutils.base.ListSerializer;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.api.common.typeutils.base.MapSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.connector.file.table.stream.PartitionCommitInfo;
import org.apache.flink.connector.file.table.stream.compact.CompactMessages;
import org.apache.flink.connector.file.table.utils.CompactFileUtils;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.fs.Path;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;

public final class CompactFiles extends AbstractStreamOperator
        implements OneInputStreamOperator, BoundedOneInput {
    private final ParquetFiles format;
    /** By checkpoint: files to delete when it has completed, because their compacted file is in it. */
    private final TreeMap expired = new TreeMap();
    private List current = new ArrayList();
    private final Set partitions = new HashSet();

    private transient ListState kept;

    /** references: see ParquetFiles. */
    public CompactFiles(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        format = new ParquetFiles(references);
    }

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        ListSerializer paths = new ListSerializer(StringSerializer.INSTANCE);
        kept =
                context.getOperatorStateStore()
                        .getListState(
                                new ListStateDescriptor(
                                        "expired-v1",
                                        new MapSerializer(LongSerializer.INSTANCE, paths)));
        // after a change of parallelism: the state of none, one or several subtasks
        for (Iterator all = ((Iterable) kept.get()).iterator(); all.hasNext(); ) {
            Map one = (Map) all.next();
            for (Iterator entries = one.entrySet().iterator(); entries.hasNext(); ) {
                Map.Entry entry = (Map.Entry) entries.next();
                List files = (List) expired.get(entry.getKey());
                if (files == null) {
                    files = new ArrayList();
                    expired.put(entry.getKey(), files);
                }
                files.addAll((List) entry.getValue());
            }
        }
    }

    public void snapshotState(StateSnapshotContext context) throws Exception {
        super.snapshotState(context);
        expired.put(Long.valueOf(context.getCheckpointId()), current);
        current = new ArrayList();
        kept.update(Collections.singletonList(new HashMap(expired)));
    }

    public void processElement(StreamRecord record) throws Exception {
        Object message = record.getValue();
        if (message instanceof CompactMessages.EndCompaction) {
            report(((CompactMessages.EndCompaction) message).getCheckpointId());
            return;
        }
        CompactMessages.CompactionUnit unit = (CompactMessages.CompactionUnit) message;
        if (!unit.isTaskMessage(subtasks(), subtask())) {
            return;
        }
        List paths = unit.getPaths();
        if (!paths.isEmpty()) {
            Path first = (Path) paths.get(0);
            FileSystem files = first.getFileSystem();
            Path target = ParquetFiles.compacted(first);
            if (!files.exists(target)) {
                CompactFileUtils.doCompact(
                        files,
                        unit.getPartition(),
                        paths,
                        target,
                        getContainingTask()
                                .getEnvironment()
                                .getTaskManagerInfo()
                                .getConfiguration(),
                        format.readers(),
                        format.writers());
            }
            for (int i = 0; i < paths.size(); i++) {
                current.add(paths.get(i).toString());
            }
        }
        partitions.add(unit.getPartition());
    }

    private void report(long checkpoint) {
        String[] names = new String[partitions.size()];
        partitions.toArray(names);
        output.collect(
                new StreamRecord(
                        new PartitionCommitInfo(checkpoint, subtask(), subtasks(), names)));
        partitions.clear();
    }

    public void notifyCheckpointComplete(long checkpoint) throws Exception {
        super.notifyCheckpointComplete(checkpoint);
        remove(checkpoint);
    }

    public void endInput() throws Exception {
        report(Long.MAX_VALUE);
        expired.put(Long.valueOf(Long.MAX_VALUE), current);
        current = new ArrayList();
        remove(Long.MAX_VALUE);
    }

    private void remove(long checkpoint) throws Exception {
        Map due = expired.headMap(Long.valueOf(checkpoint), true);
        for (Iterator all = due.values().iterator(); all.hasNext(); ) {
            for (Iterator files = ((List) all.next()).iterator(); files.hasNext(); ) {
                Path file = new Path((String) files.next());
                file.getFileSystem().delete(file, true);
            }
        }
        due.clear();
    }

    private int subtask() {
        return getRuntimeContext().getTaskInfo().getIndexOfThisSubtask();
    }

    private int subtasks() {
        return getRuntimeContext().getTaskInfo().getNumberOfParallelSubtasks();
    }
}
