package checkback.dashboard;

/**
 * Every call that RocketMQ Dashboard makes of a broker and its name server (access lists and proxies apart), through
 * the same admin client, in the order of its pages: {@code java -cp mqadmin.jar checkback.dashboard.Dashboard HOST:PORT}.
 * Prints {@code PASS page: call -> what it shows} or {@code FAIL page: call: reason}; the exit status is 1 when one failed.
 *
 * <p>The broker must be called {@code broker-a} and have traceTopicEnable=true. The dashboard itself is in no registry.
 */
public final class Dashboard {
    private Dashboard() {
    }

    public static void main(String[] args) throws Exception {
        boolean green = true;
        try (Scene scene = new Scene(args[0])) {
            Page[] pages = {
                Overview.cluster(scene), Topics.page(scene), Consumers.page(scene), Consumers.producers(scene),
                Messages.page(scene), Messages.deadLetters(scene), Messages.traces(scene), Overview.charts(scene),
                Topics.resets(scene),
            };
            for (Page page : pages) {
                green &= page.opens();
            }
        }
        System.exit(green ? 0 : 1);
    }
}
