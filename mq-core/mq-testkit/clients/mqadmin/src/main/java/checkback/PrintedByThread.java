package checkback;

import java.io.ByteArrayOutputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;

/** What is printed goes to the output of the thread that prints, or of the thread that started that one. */
final class PrintedByThread extends OutputStream {
    /** What one command printed so far. */
    static final class Output {
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

        synchronized void write(byte[] from, int start, int length) {
            bytes.write(from, start, length);
        }

        void append(String text) {
            byte[] more = text.getBytes(StandardCharsets.UTF_8);
            write(more, 0, more.length);
        }

        synchronized boolean contains(String text) {
            return bytes.toString(StandardCharsets.UTF_8).contains(text);
        }

        synchronized byte[] bytes() {
            return bytes.toByteArray();
        }
    }

    private final InheritableThreadLocal<Output> output = new InheritableThreadLocal<>();

    void to(Output output) {
        this.output.set(output);
    }

    @Override
    public void write(int one) {
        write(new byte[] {(byte) one}, 0, 1);
    }

    @Override
    public void write(byte[] from, int start, int length) {
        Output mine = output.get();
        if (mine != null) {
            mine.write(from, start, length);
        }
    }
}
