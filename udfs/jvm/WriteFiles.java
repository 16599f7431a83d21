// Internal rows in, messages about files out (ParquetFiles.message). A file gets the rows of one
// partition and is finished before the barrier of the next checkpoint, so its message is in front of
// that barrier, and no state is kept here. Nothing becomes visible here: CommitFiles does that.
// Flink's own writer is not used, because it makes its last files visible at the end of the input,
// before any checkpoint has the rows behind it.

import java.util.ArrayList;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.TreeMap;
import java.util.UUID;
import org.apache.flink.core.fs.Path;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter;
import org.apache.flink.streaming.api.functions.sink.filesystem.InProgressFileWriter;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.data.RowData;

public final class WriteFiles extends AbstractStreamOperator
        implements OneInputStreamOperator, BoundedOneInput, ProcessingTimeService.ProcessingTimeCallback {
    /** A file of a job without checkpoints is finished when it is this old, to bound the memory. */
    private static final long OLD_MS = 1800000L;
    private static final long LOOK_EVERY_MS = 60000L;
    private static final int LOOK_EVERY_ROWS = 100;

    private final ParquetFiles format;
    /** In the names of files: two attempts never use one name. */
    private final String attempt = UUID.randomUUID().toString().substring(0, 8);
    /** By partition: the Part that is being written. */
    private final Map open = new HashMap();
    /** The one of the last row; null if it is finished. */
    private Part last;

    /** The column with the time of the event, or -1; the greatest that was written. */
    private final int timeColumn;
    private long newest = Moment.NONE;
    /** By checkpoint, until it has completed: the greatest time that is in it. */
    private final TreeMap newestOf = new TreeMap();
    private final Moment newestVisible = new Moment();

    private transient BucketWriter writers;
    /** The checkpoint that the next file comes after; in its name. */
    private long after = 0L;
    private int files = 0;

    /** references: see ParquetFiles. */
    public WriteFiles(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        setProcessingTimeService(processingTime);
        setup(task, config, output);
        format = new ParquetFiles(references);
        timeColumn = format.column("event_time");
    }

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        OptionalLong restored = context.getRestoredCheckpointId();
        after = restored.isPresent() ? restored.getAsLong() : 0L;
    }

    public void open() throws Exception {
        super.open();
        writers = format.writers();
        if (timeColumn >= 0) {
            getMetricGroup().gauge("newest_visible_event_ms", newestVisible);
        }
        getProcessingTimeService().registerTimer(now() + LOOK_EVERY_MS, this);
    }

    public void processElement(StreamRecord record) throws Exception {
        RowData row = (RowData) record.getValue();
        String partition = format.partition(row);
        Part part = last != null && last.partition == partition ? last : (Part) open.get(partition);
        // asking the file system for a size costs more than writing a row
        if (part != null
                && part.rows % LOOK_EVERY_ROWS == 0
                && part.writer.getSize() > format.fileSize()) {
            finish(part);
            part = null;
        }
        if (part == null) {
            part = new Part();
            part.partition = partition;
            part.file = format.part(partition, after, subtask(), attempt, files++);
            part.since = now();
            part.writer = (InProgressFileWriter) writers.openNewInProgressFile(
                    partition, part.file, part.since);
            open.put(partition, part);
        }
        part.writer.write(row, part.since);
        if (timeColumn >= 0 && !row.isNullAt(timeColumn)) {
            newest = Math.max(newest, row.getLong(timeColumn));
        }
        part.rows++;
        last = part;
    }

    public void prepareSnapshotPreBarrier(long checkpoint) throws Exception {
        super.prepareSnapshotPreBarrier(checkpoint);
        finishOlderThan(Long.MAX_VALUE);
        after = checkpoint;
        newestOf.put(Long.valueOf(checkpoint), Long.valueOf(newest));
    }

    /** CommitFiles makes the files of the checkpoint visible at about this time. */
    public void notifyCheckpointComplete(long checkpoint) throws Exception {
        super.notifyCheckpointComplete(checkpoint);
        Map done = newestOf.headMap(Long.valueOf(checkpoint), true);
        if (!done.isEmpty()) {
            Map.Entry newestDone = newestOf.floorEntry(Long.valueOf(checkpoint));
            newestVisible.set(((Long) newestDone.getValue()).longValue());
            done.clear();
        }
    }

    public void endInput() throws Exception {
        finishOlderThan(Long.MAX_VALUE);
    }

    public void onProcessingTime(long time) throws Exception {
        finishOlderThan(time - OLD_MS);
        getProcessingTimeService().registerTimer(now() + LOOK_EVERY_MS, this);
    }

    private void finishOlderThan(long time) throws Exception {
        List parts = new ArrayList(open.values());
        for (int i = 0; i < parts.size(); i++) {
            Part part = (Part) parts.get(i);
            if (part.since < time) {
                finish(part);
            }
        }
    }

    private void finish(Part part) throws Exception {
        long size = part.writer.getSize();
        Object pending = part.writer.closeForCommit();
        open.remove(part.partition);
        last = null;
        byte[] token = null;
        if (format.compact()) {
            // Its name is hidden, and a file has to be there to be compacted.
            ParquetFiles.makeVisible(writers, pending);
        } else {
            token = ParquetFiles.token(writers, pending);
        }
        output.collect(
                new StreamRecord(
                        ParquetFiles.message(part.partition, part.file, size, token, null)));
    }

    public void close() throws Exception {
        // of an attempt that has failed
        for (Iterator all = open.values().iterator(); all.hasNext(); ) {
            ((Part) all.next()).writer.dispose();
        }
        open.clear();
        super.close();
    }

    private int subtask() {
        return getRuntimeContext().getTaskInfo().getIndexOfThisSubtask();
    }

    private long now() {
        return getProcessingTimeService().getCurrentProcessingTime();
    }

    /** A file that is being written, since when (ms). */
    static final class Part {
        String partition;
        Path file;
        InProgressFileWriter writer;
        long since;
        long rows;
    }
}
