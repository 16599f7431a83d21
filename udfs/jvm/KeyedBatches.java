// (key, packed event) in; one call of Python for many of them; packed records out.
//
// Python is asked by `run(batch)`, which returns a reply; udfs/core/join_batches.py says what is in
// both. This operator knows keys, a state of named entries and a log for each key, timers, counters
// and side outputs. What they mean, only Python knows.
//
// An entry may begin with its end: a msgpack integer of 8 bytes. A key that has only such an entry, and
// no log, waits for nothing but that time. Then the entry is removed here: half of all timers are
// these, and each would be a key to load, a step, and a key in the reply.
//
// A batch ends when it is large, when it is old, before a checkpoint, and at the end of the input. A
// watermark does not end it but is a step of it, and is sent on when the batch is done. All state is
// written before `flush` returns, so a checkpoint has everything.
//
// Janino, Flink's own compiler of generated code, knows no generics and no lambdas.

import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import org.apache.flink.api.common.operators.ProcessingTimeService.ProcessingTimeCallback;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.state.StateInitializationContext;
import org.apache.flink.runtime.state.StateSnapshotContext;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.graph.StreamConfig;
import org.apache.flink.streaming.api.operators.InternalTimeServiceManager;
import org.apache.flink.streaming.api.operators.InternalTimer;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.api.operators.Output;
import org.apache.flink.streaming.api.operators.Triggerable;
import org.apache.flink.streaming.api.operators.python.embedded.AbstractEmbeddedPythonFunctionOperator;
import org.apache.flink.streaming.api.typeinfo.python.PickledByteArrayTypeInfo;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.tasks.ProcessingTimeService;
import org.apache.flink.streaming.runtime.tasks.StreamTask;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;
import org.apache.flink.types.Row;

public final class KeyedBatches extends AbstractEmbeddedPythonFunctionOperator
        implements OneInputStreamOperator, Triggerable, ProcessingTimeCallback {
    /** A key with more entries, or with a longer log, is read by Python as far as it needs it. */
    private static final int LOADED_AT_MOST = 32;
    /** The head of a msgpack integer of 8 bytes. */
    private static final byte INT64 = (byte) 0xd3;
    /** Instead of a key: time has come to here. */
    private static final int TIME = -1;

    private final Hosted hosted;
    private final String entriesName, logName;
    private final boolean onlyOwnEntry;
    private final long deadlineSpanMs;

    private transient MapState entries;
    private transient ListState log;
    private transient InternalTimerService timers;
    private transient Reports reports;
    private transient Levels levels;

    /** Keys of the batch by their text, and as Flink has them, in the order of their first mention. */
    private transient HashMap index;
    private transient List keys;
    /** Keys that Python does not want to be loaded. */
    private transient HashSet unloaded;
    private transient Packing batch;
    private transient Packing steps;
    private transient int count;
    /** The watermark before the first step; the last that arrived; whether it is to be sent on. */
    private transient long before, watermark;
    private transient boolean unsent;
    /** The time of the last timer of the batch that is due, while time goes on. */
    private transient long lastDue;
    private transient boolean someDue;
    private transient boolean ended;
    private transient StreamRecord record;

    /**
     * references: see Hosted; then the names of entries and log in state; "own" if a key has at most
     * the entry that is named like it, else "all"; how exactly deadlines are told apart for the
     * gauges (ms).
     */
    public KeyedBatches(
            Object[] references,
            StreamTask task,
            StreamConfig streamConfig,
            Output output,
            ProcessingTimeService processingTime)
            throws Exception {
        super((Configuration) references[0]);
        hosted = new Hosted(references);
        entriesName = (String) references[hosted.end];
        logName = (String) references[hosted.end + 1];
        onlyOwnEntry = "own".equals(references[hosted.end + 2]);
        deadlineSpanMs = Long.parseLong((String) references[hosted.end + 3]);
        setup(task, streamConfig, output);
        setProcessingTimeService(processingTime);
    }

    public void initializeState(StateInitializationContext context) throws Exception {
        super.initializeState(context);
        levels = new Levels(context, getRuntimeContext().getTaskInfo(), deadlineSpanMs);
    }

    public void snapshotState(StateSnapshotContext context) throws Exception {
        super.snapshotState(context);
        levels.snapshot();
    }

    public void open() throws Exception {
        index = new HashMap();
        keys = new ArrayList();
        unloaded = new HashSet();
        batch = new Packing();
        steps = new Packing();
        record = new StreamRecord(null);
        before = Long.MIN_VALUE;
        watermark = Long.MIN_VALUE;
        // types and names are those that PyFlink gave them, so that earlier savepoints fit
        entries =
                getRuntimeContext()
                        .getMapState(
                                new MapStateDescriptor(
                                        entriesName,
                                        Types.STRING,
                                        PickledByteArrayTypeInfo.PICKLED_BYTE_ARRAY_TYPE_INFO));
        log =
                getRuntimeContext()
                        .getListState(
                                new ListStateDescriptor(
                                        logName,
                                        PickledByteArrayTypeInfo.PICKLED_BYTE_ARRAY_TYPE_INFO));
        timers = getInternalTimerService("user-timers", VoidNamespaceSerializer.INSTANCE, this);
        reports = hosted.reports(getMetricGroup());
        super.open();
        if (levels.uncounted()) {
            countLevels();
        }
        levels.show(getMetricGroup());
    }

    /** For state of a release that did not count: once, over all keys. */
    private void countLevels() throws Exception {
        HashSet counted = new HashSet();
        String[] names = {entriesName, logName};
        for (int i = 0; i < names.length; i++) {
            java.util.stream.Stream all =
                    getKeyedStateBackend().getKeys(names[i], VoidNamespace.INSTANCE);
            for (Iterator keys = all.iterator(); keys.hasNext(); ) {
                String key = (String) ((Row) keys.next()).getField(0);
                if (counted.add(key)) {
                    Object[] stored = {readEntries(key), readLog(key)};
                    byte[] said = (byte[]) interpreter.invokeMethod("host", "levels", stored);
                    Packed in = new Packed(said);
                    in.array();
                    levels.add(in, getCurrentKey());
                }
            }
            all.close();
        }
        levels.publish();
    }

    public void openPythonInterpreter() {
        hosted.open(interpreter, new StateReader(this));
    }

    public void close() throws Exception {
        if (reports != null) {
            reports.close(getRuntimeContext());
        }
        super.close();
    }

    /** The key is set where state is used, and not for every record. */
    public void setKeyContextElement1(StreamRecord record) {}

    public void processElement(StreamRecord record) throws Exception {
        Row row = (Row) record.getValue();
        byte[] event = (byte[]) row.getField(1);
        step(indexOf((String) row.getField(0), null), 0L);
        steps.raw(event, 0, event.length);
        if (full()) {
            flush();
        } else {
            wake();
        }
    }

    public void processWatermark(Watermark mark) throws Exception {
        if (mark.getTimestamp() == Long.MAX_VALUE) {
            flush(); // the end is for what is still due then, and not for what came before
            ended = true;
        }
        watermark = mark.getTimestamp();
        unsent = true;
        someDue = false;
        ((InternalTimeServiceManager) getTimeServiceManager().get()).advanceWatermark(mark);
        if (count > 0) {
            timeIs(watermark);
        }
        if (count == 0 || ended || full()) {
            flush();
        } else {
            wake();
        }
    }

    /** It is sent on behind what came before it, as a watermark is. */
    public void processWatermarkStatus(WatermarkStatus status) throws Exception {
        flush();
        super.processWatermarkStatus(status);
    }

    public void onEventTime(InternalTimer timer) throws Exception {
        long at = timer.getTimestamp();
        Row key = (Row) timer.getKey();
        if (onlyWaits((String) key.getField(0), at)) {
            return;
        }
        if (full() && someDue && at > lastDue) {
            // Many at once, as at the end of the input. The cut is between two times, for Python
            // may set further timers for a time that is due, and a key's are to fire in order.
            timeIs(lastDue);
            run();
        }
        step(indexOf((String) key.getField(0), key), at);
        steps.nil();
        someDue = true;
        lastDue = at;
    }

    /**
     * Whether the current key has nothing but an entry that waits for its end, which is removed if
     * that is now. False, too, if something of the key is in the batch, since the state then does
     * not say it yet, and if the key would not be loaded, since Python may remember it then.
     */
    private boolean onlyWaits(String key, long now) throws Exception {
        if (!onlyOwnEntry || index.containsKey(key) || unloaded.contains(key)) {
            return false;
        }
        byte[] entry = (byte[]) entries.get(key);
        if (entry == null || entry[0] != INT64) {
            return false;
        }
        Iterable logged = (Iterable) log.get();
        if (logged != null && logged.iterator().hasNext()) {
            return false;
        }
        if (new Packed(entry).integer() <= now) {
            entries.remove(key);
        }
        return true;
    }

    public void onProcessingTime(InternalTimer timer) {}

    public void prepareSnapshotPreBarrier(long checkpoint) throws Exception {
        flush();
        super.prepareSnapshotPreBarrier(checkpoint);
    }

    public void finish() throws Exception {
        flush();
        super.finish();
    }

    private void step(int key, long time) {
        steps.array(3);
        steps.integer(key);
        steps.integer(time);
        count++;
    }

    private void timeIs(long time) {
        step(TIME, time);
        steps.nil();
    }

    private boolean full() {
        return hosted.full(count, steps.at);
    }

    /** row: the key as the state has it, if it is at hand; else null. */
    private int indexOf(String key, Row row) {
        Integer known = (Integer) index.get(key);
        if (known != null) {
            return known.intValue();
        }
        int k = keys.size();
        index.put(key, Integer.valueOf(k));
        keys.add(row == null ? Row.of(new Object[] {key}) : row);
        return k;
    }

    private void wake() {
        hosted.wake(getProcessingTimeService(), this);
    }

    public void onProcessingTime(long time) throws Exception {
        hosted.woken();
        flush();
    }

    /** Everything that has come is done, the watermark included. */
    private void flush() throws Exception {
        run();
        if (unsent) {
            unsent = false;
            output.emitWatermark(new Watermark(watermark));
        }
    }

    private void run() throws Exception {
        if (count > 0) {
            batch.clear();
            batch.array(4);
            batch.integer(before);
            batch.bool(ended);
            batch.array(keys.size());
            for (int k = 0; k < keys.size(); k++) {
                load((Row) keys.get(k));
            }
            batch.array(count);
            batch.raw(steps.bytes, 0, steps.at);
            List names = keys;
            steps.clear();
            count = 0;
            someDue = false;
            index.clear();
            keys = new ArrayList();
            perform((byte[]) interpreter.invokeMethod("host", "run", batch.copy()), names);
        }
        before = watermark;
    }

    /** The reply: [keys, samples, elements of the largest key, reports]. */
    private void perform(byte[] reply, List names) throws Exception {
        Packed in = new Packed(reply);
        in.array();
        int n = in.array();
        for (int i = 0; i < n; i++) {
            in.array();
            Row key = (Row) names.get((int) in.integer());
            setCurrentKey(key);
            if (in.bool()) {
                unloaded.remove(key.getField(0));
            } else {
                unloaded.add(key.getField(0));
            }
            int changes = in.map();
            for (int j = 0; j < changes; j++) {
                String name = in.string();
                if (in.nil()) {
                    entries.remove(name);
                } else {
                    entries.put(name, in.content());
                }
            }
            if (!in.nil()) {
                List all = contents(in);
                if (all.isEmpty()) {
                    log.clear();
                } else {
                    log.update(all);
                }
            }
            int more = in.array();
            for (int j = 0; j < more; j++) {
                log.add(in.content());
            }
            int times = in.array();
            for (int j = 0; j < times; j++) {
                timers.registerEventTimeTimer(VoidNamespace.INSTANCE, in.integer());
            }
            levels.add(in, getCurrentKey());
        }
        levels.publish();
        n = in.array();
        for (int i = 0; i < n; i++) {
            output.collect(record.replace(in.content()));
        }
        levels.largest(in.integer());
        reports.perform(in, output);
    }

    private static List contents(Packed in) {
        int n = in.array();
        List contents = new ArrayList(n);
        for (int i = 0; i < n; i++) {
            contents.add(in.content());
        }
        return contents;
    }

    private void select(String key) {
        setCurrentKey(Row.of(new Object[] {key}));
    }

    /** [key, whether it is loaded, entries, log]. */
    private void load(Row row) throws Exception {
        String key = (String) row.getField(0);
        batch.array(4);
        batch.text(key);
        int begin = batch.at;
        batch.bool(true);
        if (!unloaded.contains(key)) {
            setCurrentKey(row);
            if (packEntries(batch, onlyOwnEntry ? key : null, LOADED_AT_MOST)
                    && packLog(batch, LOADED_AT_MOST)) {
                return;
            }
        }
        batch.at = begin;
        batch.bool(false);
        batch.close(batch.open(true), 0);
        batch.array(0);
    }

    /** Entries of the current key as a map, of `name` or all; false if they are more than `most`. */
    private boolean packEntries(Packing to, String name, int most) throws Exception {
        int begin = to.open(true), size = 0;
        if (name != null) {
            byte[] stored = (byte[]) entries.get(name);
            if (stored != null) {
                to.text(name);
                packStored(to, stored);
                size = 1;
            }
        } else {
            for (Iterator all = entries.iterator(); all.hasNext(); size++) {
                if (size == most) {
                    return false;
                }
                Map.Entry entry = (Map.Entry) all.next();
                to.text((String) entry.getKey());
                packStored(to, (byte[]) entry.getValue());
            }
        }
        to.close(begin, size);
        return true;
    }

    /** The log of the current key as a list; false if it is longer than `most`. */
    private boolean packLog(Packing to, int most) throws Exception {
        int begin = to.open(false), size = 0;
        Iterable stored = (Iterable) log.get();
        if (stored != null) {
            for (Iterator all = stored.iterator(); all.hasNext(); size++) {
                if (size == most) {
                    return false;
                }
                packStored(to, (byte[]) all.next());
            }
        }
        to.close(begin, size);
        return true;
    }

    private static void packStored(Packing to, byte[] stored) {
        to.binary(stored, Pickled.begin(stored), Pickled.size(stored));
    }

    byte[] readEntry(String key, String name) throws Exception {
        select(key);
        byte[] stored = (byte[]) entries.get(name);
        if (stored == null) {
            return null;
        }
        int begin = Pickled.begin(stored);
        return java.util.Arrays.copyOfRange(stored, begin, begin + Pickled.size(stored));
    }

    byte[] readEntries(String key) throws Exception {
        select(key);
        Packing all = new Packing();
        packEntries(all, null, Integer.MAX_VALUE);
        return all.copy();
    }

    byte[] readLog(String key) throws Exception {
        select(key);
        Packing all = new Packing();
        packLog(all, Integer.MAX_VALUE);
        return all.copy();
    }
}

/** What Python reads of keys that were not loaded; see udfs.core.join_batches.Reader. */
final class StateReader {
    private final KeyedBatches of;

    StateReader(KeyedBatches of) {
        this.of = of;
    }

    public byte[] entry(String key, String name) throws Exception {
        return of.readEntry(key, name);
    }

    public byte[] entries(String key) throws Exception {
        return of.readEntries(key);
    }

    public byte[] log(String key) throws Exception {
        return of.readLog(key);
    }
}
