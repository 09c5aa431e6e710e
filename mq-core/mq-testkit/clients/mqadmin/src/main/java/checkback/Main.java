package checkback;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * Runs {@code mqadmin} commands, unchanged, one after the other in this process: a JVM for each would take minutes.
 *
 * <p>A line of stdin is one command: how many seconds it may take, a text that ends it early (some never end by
 * themselves; may be empty), and its arguments, separated by tabs. The answer on stdout is the number of bytes, a line
 * break, and what the command printed on stdout and stderr.
 */
public final class Main {
    private Main() {
    }

    private static final class Commands extends MQAdminStartup {
        /** With new commands: some keep the client that they shut down. */
        static void run(String[] command) {
            SUB_COMMANDS.clear();
            main0(command, null);
        }
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = System.out;
        var printed = new PrintedByThread();
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        System.setErr(System.out);
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] parts = line.split("\t", -1);
            byte[] output = run(printed, Integer.parseInt(parts[0]), parts[1], Arrays.copyOfRange(parts, 2, parts.length));
            out.printf("%d%n", output.length);
            out.write(output);
            out.flush();
        }
        // Threads of commands that never end are still there.
        System.exit(0);
    }

    private static byte[] run(PrintedByThread printed, int seconds, String until, String[] command)
        throws InterruptedException {
        var output = new PrintedByThread.Output();
        var running = new Thread(() -> {
            printed.to(output);
            Commands.run(command);
        });
        running.start();
        long deadline = System.nanoTime() + seconds * 1_000_000_000L;
        while (running.isAlive() && (until.isEmpty() || !output.contains(until))) {
            if (System.nanoTime() > deadline) {
                output.append("mqadmin: not done within " + seconds + " s\n");
                break;
            }
            running.join(5);
            if (isShuttingDown(running)) {
                wakeEventThreads();
            }
        }
        return output.bytes();
    }

    private static boolean isShuttingDown(Thread running) {
        return Arrays.stream(running.getStackTrace()).anyMatch(frame -> frame.getMethodName().equals("shutdown"));
    }

    /** The client that a command stops waits for this thread, which looks up only every 3 s. */
    private static void wakeEventThreads() {
        Thread.getAllStackTraces().keySet().stream().filter(thread -> thread.getName().equals("NettyEventExecutor")).forEach(Thread::interrupt);
    }
}
