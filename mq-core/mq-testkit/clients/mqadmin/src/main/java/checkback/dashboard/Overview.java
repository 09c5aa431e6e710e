package checkback.dashboard;

import static checkback.dashboard.Page.same;
import static checkback.dashboard.Page.shows;

import java.math.BigDecimal;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.rocketmq.common.stats.Stats;
import org.apache.rocketmq.tools.command.stats.StatsAllSubCommand;

/** Pages about the cluster as a whole. */
final class Overview {
    private Overview() {
    }

    static Page cluster(Scene scene) {
        return new Page("Cluster")
            .row("examineBrokerClusterInfo", () -> {
                var info = scene.admin.examineBrokerClusterInfo();
                shows(info, info.getClusterAddrTable().get(Scene.CLUSTER).contains(Scene.BROKER));
                return same(Map.of(0L, scene.broker), info.getBrokerAddrTable().get(Scene.BROKER).getBrokerAddrs());
            })
            .row("fetchBrokerRuntimeStats", () -> {
                var stats = scene.admin.fetchBrokerRuntimeStats(scene.broker).getTable();
                Stream.of("putTps", "getTransferredTps").forEach(key -> tps(stats, key));
                long today = count(stats, "msgPutTotalTodayNow") - count(stats, "msgPutTotalTodayMorning");
                long yesterday = count(stats, "msgPutTotalTodayMorning") - count(stats, "msgPutTotalYesterdayMorning");
                shows(stats, today >= Scene.MESSAGES && yesterday == 0);
                long got = count(stats, "msgGetTotalTodayNow") - count(stats, "msgGetTotalTodayMorning");
                shows(stats, got >= Scene.MESSAGES && count(stats, "msgGetTotalYesterdayMorning") == 0);
                return stats.get("brokerVersionDesc") + ", produced today " + today + ", consumed today " + got;
            })
            .row("getBrokerConfig", () -> {
                var config = scene.admin.getBrokerConfig(scene.broker);
                same(Scene.CLUSTER, config.getProperty("brokerClusterName"));
                return same(Scene.BROKER, config.getProperty("brokerName"));
            });
    }

    /** What is collected once a minute for its charts. */
    static Page charts(Scene scene) {
        return new Page("Dashboard")
            .row("fetchAllTopicList", () -> {
                var topics = scene.admin.fetchAllTopicList().getTopicList();
                return shows(topics, topics.contains(Scene.TOPIC)).size() + " topics";
            })
            .row("fetchBrokerRuntimeStats getTotalTps", () -> {
                var stats = scene.admin.fetchBrokerRuntimeStats(scene.broker).getTable();
                return tps(stats, "getTotalTps");
            })
            .row("examineTopicRouteInfo, queryTopicConsumeByWho", () -> {
                same(scene.broker, scene.admin.examineTopicRouteInfo(Scene.TOPIC).getBrokerDatas().get(0).getBrokerAddrs().get(0L));
                var groups = scene.admin.queryTopicConsumeByWho(Scene.TOPIC).getGroupList();
                return shows(groups, groups.contains(Scene.READERS));
            })
            .row("viewBrokerStatsData TOPIC_PUT_NUMS", () -> counted(scene, Stats.TOPIC_PUT_NUMS, Scene.TOPIC))
            .row("viewBrokerStatsData GROUP_GET_NUMS",
                () -> counted(scene, Stats.GROUP_GET_NUMS, Scene.TOPIC + "@" + Scene.READERS));
    }

    private static String counted(Scene scene, String statistic, String key) throws Exception {
        var data = scene.admin.viewBrokerStatsData(scene.broker, statistic, key);
        long sum = StatsAllSubCommand.compute24HourSum(data);
        shows(sum, sum > 0);
        return sum + " today, " + data.getStatsMinute().getTps() + " per second";
    }

    private static long count(Map<String, String> stats, String key) {
        return Long.parseLong(stats.get(key));
    }

    /** Averages over 10 s, a minute and ten minutes. */
    private static String tps(Map<String, String> stats, String key) {
        var averages = shows(stats.get(key), stats.get(key) != null).split(" ");
        Stream.of(averages).forEach(BigDecimal::new);
        same(3, averages.length);
        return stats.get(key);
    }
}
