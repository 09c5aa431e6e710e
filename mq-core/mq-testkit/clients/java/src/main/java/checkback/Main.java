package checkback;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/**
 * Runs scenarios of the official client against a name server: {@code java -jar java-clients.jar HOST:PORT [scenario...]}.
 * Prints {@code PASS name} or {@code FAIL name: reason} for each, and {@code ABSENT name} for what only later clients can
 * do; the exit status is 1 when one failed.
 *
 * <p>The broker must keep the delay levels "1s 2s 3s ...", have enablePropertyFilter=true and recallMessageEnable=true,
 * and check transactions after one second, every second.
 */
public final class Main {
    /** What 4.9 has no call for: its build leaves these classes out. */
    private static final Map<String, List<String>> SINCE_5 = Map.of(
        "Popping", List.of("assigned-pull", "pop-consume", "pop-retry", "pop-dead-letter", "pop-orderly", "pop-change-invisible-time"),
        "Timers", List.of("timer-delay", "timer-deliver-at", "timer-recall"));

    private Main() {
    }

    public static void main(String[] args) throws Exception {
        Map<String, Scenario> all = new LinkedHashMap<>();
        Sending.register(all);
        Consuming.register(all);
        Filtering.register(all);
        Requests.register(all);
        Transactions.register(all);
        Tracing.register(all);
        registerSince5(all);

        if (args.length == 0) {
            System.err.println("usage: java -jar java-clients.jar NAME_SERVER [scenario...]; scenarios: " + all.keySet());
            System.exit(2);
        }
        List<String> chosen = args.length == 1 ? List.copyOf(all.keySet()) : List.of(args).subList(1, args.length);
        System.exit(run(args[0], all, chosen) ? 0 : 1);
    }

    private static void registerSince5(Map<String, Scenario> all) throws ReflectiveOperationException {
        for (String name : SINCE_5.keySet()) {
            try {
                Class.forName("checkback." + name).getDeclaredMethod("register", Map.class).invoke(null, all);
            } catch (ClassNotFoundException olderClient) {
                SINCE_5.get(name).forEach(scenario -> System.out.printf("ABSENT %s: not in this client%n", scenario));
            }
        }
    }

    /** All of them at once: they share nothing but the broker, and most of them wait most of the time. */
    private static boolean run(String nameServer, Map<String, Scenario> all, List<String> chosen) throws Exception {
        var pool = Executors.newFixedThreadPool(chosen.size());
        Map<String, Future<Boolean>> outcomes = new LinkedHashMap<>();
        for (String name : chosen) {
            outcomes.put(name, pool.submit(() -> passes(nameServer, name, all.get(name))));
        }
        boolean green = true;
        for (Future<Boolean> outcome : outcomes.values()) {
            green &= outcome.get();
        }
        return green;
    }

    private static boolean passes(String nameServer, String name, Scenario scenario) throws ExecutionException {
        long started = System.nanoTime();
        try (Stage stage = new Stage(nameServer, name)) {
            if (scenario == null) {
                throw new AssertionError("there is no such scenario");
            }
            scenario.run(stage);
            System.out.printf("PASS %s (%d ms)%n", name, (System.nanoTime() - started) / 1_000_000);
            return true;
        } catch (Throwable failure) {
            System.out.printf("FAIL %s: %s%n", name, failure);
            failure.printStackTrace();
            return false;
        }
    }
}
