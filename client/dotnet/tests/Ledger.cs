using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client.Tests
{
    /// <summary>
    /// Writes and reads without pause while somebody kills machines. Commands on standard input: <c>state</c> prints
    /// <c>state WRITES LONGEST_PAUSE_MS</c> and forgets the pause; <c>stop</c> ends it with <c>done COUNT COUNT ...</c>, one for
    /// each worker. Any exception from the client ends it with exit code 1.
    /// </summary>
    sealed class Ledger
    {
        readonly ClientOptions options;
        readonly int workers;
        readonly object mutex = new object();
        readonly Stopwatch watch = Stopwatch.StartNew();
        volatile bool stop;
        readonly HashSet<string> told = new HashSet<string>();
        long writes, reads, changes, lastTold;
        TimeSpan last, longest;

        internal Ledger(string hosts, string workers, string attempt)
        {
            options = new ClientOptions(hosts) { AttemptTimeout = TimeSpan.FromSeconds(int.Parse(attempt)) };
            this.workers = int.Parse(workers);
        }

        internal int Run()
        {
            using (var client = new TanistClient(options))
            {
                client.LinkChanged += (sender, change) => Interlocked.Increment(ref changes);
                client.Execute("CREATE TABLE IF NOT EXISTS ledger(entry TEXT NOT NULL)");
                var watching = Watch(client);
                last = watch.Elapsed;
                var tasks = Enumerable.Range(0, workers).Select(worker => Work(client, worker)).ToList();
                tasks.Add(ReadOn(client));
                foreach (var task in tasks) task.ContinueWith(End, TaskContinuationOptions.OnlyOnFaulted);
                string line;
                while ((line = Console.ReadLine()) != null && line != "stop")
                {
                    lock (mutex)
                    {
                        Console.WriteLine("state " + writes + " " + (long)longest.TotalMilliseconds);
                        longest = TimeSpan.Zero;
                    }
                }
                stop = true;
                Task.WaitAll(tasks.ToArray());
                var seen = watching == null ? "no events here" : AllTold(watching) + " events";
                Console.Error.WriteLine(writes + " writes, " + reads + " reads, " + seen + ", " + changes + " changes of the link");
                Console.WriteLine("done " + string.Join(" ", tasks.Take(workers).Select(task => task.Result)));
                return 0;
            }
        }

        /// <summary>Hears of every write, if the server tells events.</summary>
        Task Watch(TanistClient client)
        {
            try
            {
                client.SetWatched("ledger", true);
            }
            catch (ProblemException error) when (error.Problem.Code == "not-found")
            {
                return null;
            }
            return client.WatchAsync(new WatchOptions { After = 0, Tables = new[] { "ledger" } }, Hear, CancellationToken.None);
        }

        void Hear(ChangeEvent change)
        {
            var entry = (string)((JsonObject)((JsonObject)change.Data)["new"])["entry"];
            lock (told)
            {
                if (!told.Add(entry)) throw new FailedException("told twice: " + entry);
                if (change.Id <= lastTold) throw new FailedException("event " + change.Id + " told after " + lastTold);
                lastTold = change.Id;
                Monitor.PulseAll(told);
            }
        }

        /// <summary>Waits until all writes have been told.</summary>
        int AllTold(Task watching)
        {
            var limit = Stopwatch.StartNew();
            lock (told)
                while (told.Count < writes)
                {
                    if (watching.IsCompleted) watching.GetAwaiter().GetResult();
                    if (limit.Elapsed > TimeSpan.FromSeconds(60)) throw new FailedException("told " + told.Count + " of " + writes + " writes");
                    Monitor.Wait(told, 100);
                }
            Check.Equal(writes, told.Count);
            return told.Count;
        }

        static void End(Task failed)
        {
            Console.Error.WriteLine(failed.Exception);
            Environment.Exit(1);
        }

        /// <summary>Every second worker makes blocking calls on a thread of its own, such as a user interface has.</summary>
        Task<long> Work(TanistClient client, int worker)
        {
            if (worker % 2 == 0) return Task.Run(() => WriteOn(client, worker));
            var counted = new TaskCompletionSource<long>();
            new Thread(() =>
            {
                try
                {
                    LoopContext.Run(() =>
                    {
                        var count = 0L;
                        while (!stop)
                        {
                            client.Execute("INSERT INTO ledger(entry) VALUES (?)", worker + "/" + count++);
                            Written();
                        }
                        counted.SetResult(count);
                        return counted.Task;
                    });
                }
                catch (Exception error)
                {
                    counted.TrySetException(error);
                }
            }) { IsBackground = true }.Start();
            return counted.Task;
        }

        async Task<long> WriteOn(TanistClient client, int worker)
        {
            var count = 0L;
            while (!stop)
            {
                var named = new Dictionary<string, object> { { "entry", worker + "/" + count++ } };
                await client.ExecuteAsync(new[] { new Statement("INSERT INTO ledger(entry) VALUES (:entry)", named) });
                Written();
            }
            return count;
        }

        void Written()
        {
            lock (mutex)
            {
                writes++;
                var now = watch.Elapsed;
                if (now - last > longest) longest = now - last;
                last = now;
            }
        }

        /// <summary>Reads from the nearest replica and from the master in turn: neither may ever go back in time.</summary>
        async Task<long> ReadOn(TanistClient client)
        {
            var select = new[] { new Statement("SELECT count(*) AS n FROM ledger") };
            var seen = 0L;
            while (!stop)
            {
                long acknowledged;
                lock (mutex) acknowledged = writes;
                var local = reads++ % 2 == 0;
                var found = (await client.QueryAsync(select, local ? ReadOptions.Local : new ReadOptions())).Rows[0].Get<long>("n");
                if (found < seen || found < acknowledged)
                    throw new FailedException("read " + found + " entries after " + seen + ", " + acknowledged + " acknowledged");
                // A local one may show what isn't acknowledged yet, and what is lost with its master.
                if (!local) seen = found;
            }
            return 0;
        }
    }
}
