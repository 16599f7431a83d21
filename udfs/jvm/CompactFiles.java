// Messages about files in and out (ParquetFiles.message). Where a unit has several files, or one that no
// rename can make visible, their rows are written into one, which is finished before the barrier of the
// checkpoint that has those files. So no state is kept here. Nothing becomes visible and nothing is
// deleted here: CommitFiles does both.

import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.file.table.stream.compact.CompactContext;
import org.apache.flink.connector.file.table.stream.compact.CompactReader;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.fs.Path;
import org.apache.flink.streaming.api.functions.sink.filesystem.BucketWriter;
import org.apache.flink.streaming.api.functions.sink.filesystem.InProgressFileWriter;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.data.RowData;
import org.apache.flink.types.Row;

public final class CompactFiles extends AbstractStreamOperator implements OneInputStreamOperator {
    private final ParquetFiles format;

    private transient BucketWriter writers;
    private transient CompactReader.Factory readers;

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

    public void open() throws Exception {
        super.open();
        writers = format.writers();
        readers = format.readers();
    }

    public void processElement(StreamRecord record) throws Exception {
        Row unit = (Row) record.getValue();
        String[] inputs = ParquetFiles.inputs(unit);
        if (inputs == null || (inputs.length == 1 && format.renames())) {
            // visible as it is, or under another name
            output.collect(new StreamRecord(unit));
            return;
        }
        String partition = ParquetFiles.partition(unit);
        Path target = ParquetFiles.file(unit);
        long now = getProcessingTimeService().getCurrentProcessingTime();
        InProgressFileWriter file =
                (InProgressFileWriter) writers.openNewInProgressFile(partition, target, now);
        byte[] token;
        try {
            for (int i = 0; i < inputs.length; i++) {
                copy(partition, new Path(inputs[i]), file, now);
            }
            token = ParquetFiles.token(writers, file.closeForCommit());
        } catch (Exception e) {
            file.dispose();
            throw e;
        }
        output.collect(
                new StreamRecord(
                        ParquetFiles.message(
                                partition, target, ParquetFiles.size(unit), token, inputs)));
    }

    private void copy(String partition, Path input, InProgressFileWriter file, long now)
            throws Exception {
        Input context = new Input();
        context.settings =
                getContainingTask().getEnvironment().getTaskManagerInfo().getConfiguration();
        context.files = input.getFileSystem();
        context.partition = partition;
        context.path = input;
        CompactReader reader = readers.create(context);
        try {
            for (RowData row = (RowData) reader.read();
                    row != null;
                    row = (RowData) reader.read()) {
                file.write(row, now);
            }
        } finally {
            reader.close();
        }
    }

    /** What Flink's reader wants to know; Janino cannot call the static method that makes one. */
    static final class Input implements CompactContext {
        Configuration settings;
        FileSystem files;
        String partition;
        Path path;

        public Configuration getConfig() {
            return settings;
        }

        public FileSystem getFileSystem() {
            return files;
        }

        public String getPartition() {
            return partition;
        }

        public Path getPath() {
            return path;
        }
    }
}
