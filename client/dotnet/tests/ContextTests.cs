using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client.Tests
{
    /// <summary>One thread with a queue, as WinForms and WPF have it.</summary>
    sealed class LoopContext : SynchronizationContext
    {
        readonly BlockingCollection<Action> queue = new BlockingCollection<Action>();

        public override void Post(SendOrPostCallback action, object state) { queue.Add(() => action(state)); }

        public override void Send(SendOrPostCallback action, object state) { throw new NotSupportedException("would deadlock"); }

        /// <summary>Runs the action on this thread, then what is posted, until the task that it gives ends.</summary>
        internal static void Run(Func<Task> action)
        {
            var old = Current;
            var context = new LoopContext();
            SetSynchronizationContext(context);
            try
            {
                var task = action();
                task.ContinueWith(ended => context.queue.CompleteAdding(), TaskScheduler.Default);
                foreach (var next in context.queue.GetConsumingEnumerable()) next();
                task.GetAwaiter().GetResult();
            }
            finally
            {
                SetSynchronizationContext(old);
            }
        }
    }

    static class ContextTests
    {
        const string Done = "{\"position\":\"1.5\",\"results\":[]}";

        static void InTime(Action action, Func<string> where = null)
        {
            Exception error = null;
            var thread = new Thread(() =>
            {
                try
                {
                    action();
                }
                catch (Exception failed)
                {
                    error = failed;
                }
            }) { IsBackground = true };
            thread.Start();
            Check.True(thread.Join(TimeSpan.FromSeconds(60)), "a deadlock" + (where == null ? "" : ": " + where()));
            if (error != null) throw new FailedException(error.ToString());
        }

        public static void blocking_calls_do_not_deadlock_on_a_user_interface_thread()
        {
            using (var server = new RawServer(request => RawServer.Answer(200, Done)))
                InTime(() => LoopContext.Run(async () =>
                {
                    using (var client = new TanistClient(server.Url))
                    {
                        for (var i = 0; i < 5; i++) client.Execute("INSERT");
                        client.ExecuteAsync("INSERT").Wait();
                        Check.Equal("1.5", client.QueryAsync("SELECT").Result.Position);
                        var thread = Thread.CurrentThread;
                        await client.ExecuteAsync("INSERT");
                        Check.True(Thread.CurrentThread == thread, "back on the caller's thread");
                    }
                }));
        }

        public static void changes_are_told_on_the_thread_that_made_the_client_in_order()
        {
            var fails = false;
            var told = new List<LinkStatus>();
            TanistClient made = null;
            Func<string> where = () => "fails " + fails + ", told " + string.Join(" ", told) + ", " + made.LinkOf(Need.Master);
            using (var server = new RawServer(request => fails ? RawServer.Problem(503, "no-master") : RawServer.Answer(200, Done)))
                InTime(() => LoopContext.Run(async () =>
                {
                    var thread = Thread.CurrentThread;
                    var elsewhere = 0;
                    using (var client = new TanistClient(server.Url))
                    {
                        made = client;
                        var first = new TaskCompletionSource<bool>();
                        var broken = new TaskCompletionSource<bool>();
                        var back = new TaskCompletionSource<bool>();
                        client.LinkChanged += (sender, change) =>
                        {
                            if (Thread.CurrentThread != thread) elsewhere++;
                            told.Add(change.Link.Status);
                            // A handler may call the client, and block.
                            if (told.Count == 1) client.Query("SELECT");
                            first.TrySetResult(true);
                            if (fails && change.Link.Status == LinkStatus.Reconnecting) broken.TrySetResult(true);
                            if (broken.Task.IsCompleted && change.Link.Status == LinkStatus.Connected) back.TrySetResult(true);
                        };
                        Check.Equal(LinkStatus.Idle, client.LinkOf(Need.Master).Status);
                        await client.ExecuteAsync("INSERT");
                        await first.Task;
                        fails = true;
                        var call = client.ExecuteAsync("INSERT");
                        await broken.Task;
                        var link = client.LinkOf(Need.Master);
                        Check.Equal(server.Url, link.Host);
                        Check.Equal(LinkStatus.Reconnecting, link.Status);
                        Check.True(link.Reason.StartsWith(server.Url), link.Reason);
                        Check.True(link.For >= TimeSpan.Zero && Math.Abs((DateTime.UtcNow - link.Since).TotalSeconds) < 20, "since when");
                        fails = false;
                        await call;
                        await back.Task;
                    }
                    Check.Equal(0, elsewhere);
                    // On a busy computer there may be more of them, yet in turn.
                    for (var i = 1; i < told.Count; i++) Check.True(told[i] != told[i - 1], string.Join(" ", told));
                }), where);
        }

        public static void without_a_context_changes_are_told_on_the_pool()
        {
            using (var server = new RawServer(request => RawServer.Answer(200, Done)))
            using (var told = new ManualResetEventSlim())
            using (var client = new TanistClient(server.Url))
            {
                client.LinkChanged += (sender, change) => told.Set();
                client.Execute("INSERT");
                Check.True(told.Wait(TimeSpan.FromSeconds(10)), "told");
            }
        }

        public static void slow_handler_costs_the_oldest_changes_and_no_memory()
        {
            InTime(() => LoopContext.Run(() =>
            {
                var links = new Links();
                var told = 0;
                links.Changed = link => told++;
                for (var i = 0; i < 1000; i++) links.OnServed(Need.Master, "http://a:" + i);
                var end = new TaskCompletionSource<bool>();
                SynchronizationContext.Current.Post(state =>
                {
                    Check.Equal(Links.WaitingMax, told);
                    end.SetResult(true);
                }, null);
                return end.Task;
            }));
        }
    }
}
