using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading;

namespace Tanist.Client.Tests
{
    /// <summary>Configuration, nodes, states, commands and events, on a real cluster. Exit code 3: the server has no such routes.</summary>
    static class StateStory
    {
        internal static int Run(string hosts)
        {
            using (var client = new TanistClient(hosts))
            using (var stop = new CancellationTokenSource())
            {
                try
                {
                    client.ListNodes();
                }
                catch (ProblemException error) when (error.Problem.Code == "not-found")
                {
                    Console.WriteLine("left out: " + error.Message);
                    return 3;
                }
                var told = new List<ChangeEvent>();
                var all = new ManualResetEventSlim();
                var watch = client.WatchAsync(new WatchOptions { After = 0, Kinds = new[] { "config", "node", "desired", "reported", "command" } }, change =>
                {
                    told.Add(change);
                    if (change.Kind == "config" && change.Subject == "the/end") all.Set();
                }, stop.Token);
                stop.CancelAfter(TimeSpan.FromSeconds(60));
                var revisions = new List<long>();
                Config(client, revisions);
                Nodes(client, revisions);
                Commands(client);
                revisions.Add(client.SetConfig("the/end", null).Revision);
                while (!all.Wait(100) && !watch.IsCompleted) { }
                var ended = watch.IsFaulted ? watch.Exception.InnerException as ProblemException : null;
                if (ended != null && ended.Problem.Code == "not-found")
                {
                    Console.WriteLine("without events: " + ended.Message);
                    return 0;
                }
                Check.True(all.IsSet, "the watch ended early: " + watch.Exception);
                stop.Cancel();
                var ids = told.Select(change => change.Id).ToList();
                Check.True(ids.SequenceEqual(ids.Distinct().OrderBy(id => id)), "once each, in order: " + string.Join(" ", ids));
                Check.Equal("", string.Join(" ", revisions.Except(ids)));
                Console.WriteLine(told.Count + " events for " + revisions.Count + " revisions");
                return 0;
            }
        }

        static void Config(TanistClient client, List<long> revisions)
        {
            Check.Equal(null, client.GetConfig("wall/light"));
            var first = client.SetConfig("wall/light", new JsonObject { { "lux", 9007199254740993 }, { "on", true } }, new WriteOptions { IfNone = true });
            Check.Equal(412, Check.Throws<ProblemException>("there already", () => client.SetConfig("wall/light", 1, new WriteOptions { IfNone = true })).Problem.Status);
            var read = client.GetConfig("wall/light");
            Check.Equal(first.ETag, read.ETag);
            Check.Equal("{\"lux\":9007199254740993,\"on\":true}", Json.Write(read.Value));
            Check.True(ReferenceEquals(read, client.RefreshConfig(read, ReadOptions.Local)), "nothing new");
            var second = client.SetConfig("wall/light", "dark", new WriteOptions { IfMatch = read.ETag });
            Check.Equal(412, Check.Throws<ProblemException>("changed meanwhile", () => client.SetConfig("wall/light", 1, new WriteOptions { IfMatch = read.ETag })).Problem.Status);
            Check.Equal<object>("dark", client.RefreshConfig(read, ReadOptions.Local).Value);
            client.SetConfig("other", 1);
            Check.Equal("wall/light", string.Join(" ", client.ListConfig("wall/").Entries.Select(entry => entry.Key)));
            var removed = client.RemoveConfig("wall/light");
            Check.Equal(null, client.RefreshConfig(read));
            var history = client.ConfigHistory("wall/light").Entries.OrderBy(change => change.Revision).ToList();
            Check.True(history.Select(change => change.Revision).SequenceEqual(new[] { first.Revision, second.Revision, removed }), "history");
            Check.True(history[0].Added && !history[1].Added && history[2].Removed && "dark".Equals(history[2].Old), "history's values");
            Check.Throws<ProblemException>("bad key", () => client.SetConfig("\u00e9", 1));
            Check.Throws<ArgumentException>("no name", () => client.GetConfig(".."));
            revisions.AddRange(new[] { first.Revision, second.Revision, removed });
        }

        static void Nodes(TanistClient client, List<long> revisions)
        {
            var labels = new JsonObject { { "floor", "2" } };
            var node = client.SetNode("pc-a", new NodeSpec { Address = "10.0.0.7", Row = 1, Column = 2, Labels = labels });
            Check.Equal("10.0.0.7 1 2 2", string.Join(" ", node.Address, node.Row, node.Column, node.Labels["floor"]));
            node = client.PatchNode("pc-a", new JsonObject { { "row", 0 }, { "address", null } });
            Check.Equal(" 0 2", string.Join(" ", node.Address, node.Row, node.Column));
            Check.Equal(null, client.GetNode("pc-z"));
            Check.Equal(null, client.GetDesired("pc-a"));
            var desired = client.SetDesired("pc-a", new JsonObject { { "power", true }, { "source", "map" } });
            desired = client.PatchDesired("pc-a", new JsonObject { { "source", null } }, new WriteOptions { IfMatch = desired.ETag });
            Check.Equal("{\"power\":true}", Json.Write(desired.State));
            Check.Equal(false, client.ListNodes().Entries.Single(entry => entry.Name == "pc-a").InStep);
            var report = client.Report("pc-a", desired.State, desired.Revision);
            Check.Equal(report.Revision, client.Report("pc-a", desired.State, desired.Revision).Revision);
            Check.Equal(true, client.ListNodes(null, ReadOptions.Local).Entries.Single(entry => entry.Name == "pc-a").InStep);
            Check.Equal(desired.Revision, client.GetReported("pc-a").DesiredRevision);
            revisions.AddRange(new[] { node.Revision, desired.Revision, report.Revision });
        }

        static void Commands(TanistClient client)
        {
            var command = client.SendCommand("restart", new[] { "pc-a" }, new JsonObject { { "hard", true } });
            Check.Equal(OutcomeStatus.Pending, command.Outcomes.Single().Status);
            var key = new WriteOptions { IdempotencyKey = Guid.NewGuid().ToString() };
            var twice = client.SendCommand("beep", new[] { "pc-a" }, null, key);
            Check.Equal(twice.Id, client.SendCommand("beep", new[] { "pc-a" }, null, key).Id);
            Check.Equal(2, client.ListCommands("pc-a", OutcomeStatus.Pending).Entries.Count);
            client.SetOutcome(command.Id, "pc-a", OutcomeStatus.Failed, "no power");
            var outcome = client.GetCommand(command.Id).Outcomes.Single();
            Check.Equal("Failed no power", outcome.Status + " " + outcome.Detail);
            Check.Equal("beep", client.ListCommands("pc-a", OutcomeStatus.Pending).Entries.Single().Name);
            Check.Equal(null, client.GetCommand(999999));
        }
    }
}
