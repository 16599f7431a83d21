// Partitions that have new rows in. Writes _SUCCESS into a partition when the watermark has passed its
// beginning by the commit delay. One subtask for all. This is Flink's own committer, without a catalog.

import java.io.IOException;
import java.net.URI;
import java.util.Arrays;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.file.table.EmptyMetaStoreFactory;
import org.apache.flink.connector.file.table.FileSystemFactory;
import org.apache.flink.connector.file.table.stream.PartitionCommitter;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.fs.Path;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.table.catalog.ObjectIdentifier;

public final class CommitPartitions extends PartitionCommitter {
    /** references: the folder, the table, the partition columns (with blanks), the options. */
    public CommitPartitions(
            Object[] references,
            StreamTask task,
            StreamConfig config,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        super(
                new Path((String) references[0]),
                ObjectIdentifier.of("sample_stitch", "output", (String) references[1]),
                Arrays.asList(((String) references[2]).split(" ")),
                new EmptyMetaStoreFactory(new Path((String) references[0])),
                new Files(),
                (Configuration) references[3]);
        setProcessingTimeService(processingTime);
        setup(task, config, output);
    }

    static final class Files implements FileSystemFactory {
        public FileSystem create(URI uri) throws IOException {
            return FileSystem.get(uri);
        }
    }
}
