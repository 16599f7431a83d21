// Messages about finished files in (ParquetFiles.message). One subtask for all. Makes the files of a
// checkpoint visible when it has completed, deletes what they were compacted from, and then writes
// _SUCCESS into the partitions that the watermark of that checkpoint had passed by the commit delay.
// A file that is in a completed checkpoint becomes visible even after a failure: the restored state
// has it. A file that is in none never does.
//
// At the end of the input Flink waits for one more checkpoint before the tasks end, and it has the last
// files. A job without checkpoints commits at the end of the input.

import java.io.IOException;
import java.time.DateTimeException;
import java.time.LocalDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.api.common.typeutils.base.StringSerializer;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.fs.Path;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.types.Row;

public final class CommitFiles extends AbstractStreamOperator
        implements OneInputStreamOperator, BoundedOneInput {
    private final ParquetFiles format;
    private final Path folder;
    /** The class that is told of visible files; empty: none. */
    private final String listenerName;
    private final long delayMs;
    /** Whether Flink makes a checkpoint after the end of the input. */
    private final boolean checkpointAtTheEnd;

    /** Files that no checkpoint has yet. */
    private List current = new ArrayList();
    /** By checkpoint, until it has completed: its files, and its watermark. */
    private final TreeMap waiting = new TreeMap(), watermarks = new TreeMap();
    /** Partitions with visible rows that have come since their _SUCCESS. */
    private final Set incomplete = new HashSet();

    private long watermark = Long.MIN_VALUE;

    /** When files last became visible; the event time before which all rows are. */
    private final Moment lastVisible = new Moment(), completeUntil = new Moment();

    private transient BucketWriter writers;
    private transient FileListener listener;
    private transient ListState keptFiles, keptWatermarks, keptPartitions;

    /** references: those of ParquetFiles, then the subclass of FileListener or nothing, then the commit
     * delay (ms). */
    public CommitFiles(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        format = new ParquetFiles(references);
        folder = new Path((String) references[0]);
        listenerName = (String) references[references.length - 2];
        delayMs = Long.parseLong((String) references[references.length - 1]);
        Configuration job = task.getEnvironment().getJobConfiguration();
        checkpointAtTheEnd =
                CheckpointingOptions.isCheckpointingEnabled(job)
                        && ((Boolean)
                                        config.getConfiguration()
                                                .get(
                                                        CheckpointingOptions
                                                                .ENABLE_CHECKPOINTS_AFTER_TASKS_FINISH))
                                .booleanValue();
    }

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        writers = format.writers();
        keptFiles = state(context, "files-v1", ParquetFiles.messageSerializer());
        keptPartitions = state(context, "incomplete-v1", StringSerializer.INSTANCE);
        keptWatermarks = state(context, "watermark-v1", LongSerializer.INSTANCE);
        if (!context.isRestored()) {
            openListener();
            return;
        }
        // The snapshot is complete, for the job goes on from it.
        for (Iterator all = ((Iterable) keptPartitions.get()).iterator(); all.hasNext(); ) {
            incomplete.add(all.next());
        }
        List visible = new ArrayList();
        for (Iterator all = ((Iterable) keptFiles.get()).iterator(); all.hasNext(); ) {
            Row file = (Row) all.next();
            if (commit(file, true)) {
                visible.add(file);
            }
        }
        openListener();
        tell(visible, context.getRestoredCheckpointId().getAsLong(), true);
        long reached = Long.MIN_VALUE;
        for (Iterator all = ((Iterable) keptWatermarks.get()).iterator(); all.hasNext(); ) {
            reached = Math.max(reached, ((Long) all.next()).longValue());
        }
        markComplete(reached);
    }

    public void open() throws Exception {
        super.open();
        getMetricGroup().gauge("last_visible_ms", lastVisible);
        getMetricGroup().gauge("complete_until_ms", completeUntil);
    }

    private void openListener() throws Exception {
        if (!listenerName.isEmpty()) {
            listener = FileListener.named(listenerName);
            listener.open(folder, format.rows(), format.partitionColumns());
        }
    }

    private void tell(List files, long checkpoint, boolean again) throws Exception {
        if (listener != null && !files.isEmpty()) {
            listener.add(files, checkpoint, again);
        }
    }

    private static ListState state(
            StateInitializationContext context,
            String name,
            org.apache.flink.api.common.typeutils.TypeSerializer serializer)
            throws Exception {
        return context.getOperatorStateStore()
                .getListState(new ListStateDescriptor(name, serializer));
    }

    public void snapshotState(StateSnapshotContext context) throws Exception {
        super.snapshotState(context);
        Long checkpoint = Long.valueOf(context.getCheckpointId());
        waiting.put(checkpoint, current);
        watermarks.put(checkpoint, Long.valueOf(watermark));
        current = new ArrayList();
        List files = new ArrayList();
        for (Iterator all = waiting.values().iterator(); all.hasNext(); ) {
            files.addAll((List) all.next());
        }
        keptFiles.update(files);
        keptPartitions.update(new ArrayList(incomplete));
        keptWatermarks.update(Collections.singletonList(Long.valueOf(watermark)));
    }

    public void processElement(StreamRecord record) throws Exception {
        current.add(record.getValue());
    }

    public void processWatermark(Watermark mark) throws Exception {
        super.processWatermark(mark);
        watermark = mark.getTimestamp();
    }

    public void notifyCheckpointComplete(long checkpoint) throws Exception {
        super.notifyCheckpointComplete(checkpoint);
        Map due = waiting.headMap(Long.valueOf(checkpoint), true);
        List visible = new ArrayList();
        for (Iterator all = due.values().iterator(); all.hasNext(); ) {
            List files = (List) all.next();
            commitAll(files);
            visible.addAll(files);
        }
        due.clear();
        tell(visible, checkpoint, false);
        Map reached = watermarks.headMap(Long.valueOf(checkpoint), true);
        long passed = Long.MIN_VALUE;
        for (Iterator all = reached.values().iterator(); all.hasNext(); ) {
            passed = Math.max(passed, ((Long) all.next()).longValue());
        }
        reached.clear();
        markComplete(passed);
    }

    public void endInput() throws Exception {
        watermark = Long.MAX_VALUE;
        if (!checkpointAtTheEnd) {
            List visible = new ArrayList();
            for (Iterator all = waiting.values().iterator(); all.hasNext(); ) {
                visible.addAll((List) all.next());
            }
            waiting.clear();
            watermarks.clear();
            visible.addAll(current);
            current = new ArrayList();
            commitAll(visible);
            tell(visible, 0L, false);
            markComplete(watermark);
        }
    }

    private void commitAll(List files) throws Exception {
        for (int i = 0; i < files.size(); i++) {
            commit((Row) files.get(i), false);
        }
    }

    /** Whether it is visible. again: an earlier attempt may have made it so already. */
    private boolean commit(Row file, boolean again) throws Exception {
        byte[] token = ParquetFiles.token(file);
        String[] inputs = ParquetFiles.inputs(file);
        Path target = ParquetFiles.file(file);
        FileSystem files = target.getFileSystem();
        if (token == null) {
            Path source = new Path(inputs[0]);
            if (!again || files.exists(source)) {
                if (!files.rename(source, target)) {
                    throw new IOException(source + " cannot be renamed to " + target);
                }
            }
        } else {
            if (again) {
                ParquetFiles.pending(writers, token).commitAfterRecovery();
            } else {
                ParquetFiles.makeVisible(writers, ParquetFiles.recoverable(writers, token));
            }
            for (int i = 0; inputs != null && i < inputs.length; i++) {
                Path input = new Path(inputs[i]);
                input.getFileSystem().delete(input, false);
            }
        }
        if (again && !files.exists(target)) {
            // Whoever deleted it since then may have wanted that.
            LOG.warn("{} is in the snapshot that the job goes on from, but is gone", target);
            return false;
        }
        incomplete.add(ParquetFiles.partition(file));
        lastVisible.set(getProcessingTimeService().getCurrentProcessingTime());
        return true;
    }

    /** All rows that came before this watermark are visible. */
    private void markComplete(long reached) throws Exception {
        completeUntil.set(reached);
        for (Iterator all = incomplete.iterator(); all.hasNext(); ) {
            String partition = (String) all.next();
            if (reached == Long.MAX_VALUE || reached > beginningOf(partition) + delayMs) {
                Path mark = new Path(new Path(folder, partition), "_SUCCESS");
                mark.getFileSystem().create(mark, FileSystem.WriteMode.OVERWRITE).close();
                all.remove();
            }
        }
    }

    /** Of dt=YYYY-MM-DD/hr=HH, epoch ms. One that is no hour is complete at the end only. */
    private long beginningOf(String partition) {
        try {
            String[] names = partition.split("/");
            String day = names[0].substring(names[0].indexOf('=') + 1);
            String hour = names[1].substring(names[1].indexOf('=') + 1);
            return LocalDateTime.parse(day + "T" + hour + ":00:00")
                    .toInstant(ZoneOffset.UTC)
                    .toEpochMilli();
        } catch (DateTimeException e) {
            return Long.MAX_VALUE - delayMs;
        }
    }
}
