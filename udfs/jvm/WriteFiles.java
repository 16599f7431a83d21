// Internal rows in, Parquet files out, by partition; tells what files it has begun, and when they are
// finished (CoordinatorInput). This is Flink's own writer; ParquetFiles names its files.

import org.apache.flink.connector.file.table.stream.compact.CompactFileWriter;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;

public final class WriteFiles extends CompactFileWriter {
    /** How often the age of open files is checked. */
    private static final long CHECK_EVERY_MS = 60000L;

    /** references: see ParquetFiles. */
    public WriteFiles(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        super(CHECK_EVERY_MS, new ParquetFiles(references).parts());
        setProcessingTimeService(processingTime); // before setup, which hands it to the context
        setup(task, config, output);
    }
}
