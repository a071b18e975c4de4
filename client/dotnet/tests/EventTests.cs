using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading;
using System.Threading.Tasks;

namespace Tanist.Client.Tests
{
    static class EventTests
    {
        const string Head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

        /// <summary>Gives so many bytes at once.</summary>
        sealed class Slowly : MemoryStream
        {
            readonly int portion;

            internal Slowly(byte[] bytes, int portion) : base(bytes) { this.portion = portion; }

            public override Task<int> ReadAsync(byte[] buffer, int offset, int count, CancellationToken cancel)
            {
                return Task.FromResult(Read(buffer, offset, Math.Min(count, portion)));
            }
        }

        static string ReadAll(string text, int portion = 1000)
        {
            var reader = new EventReader(new Slowly(Encoding.UTF8.GetBytes(text), portion));
            var all = new List<string>();
            ServerSentEvent block;
            while ((block = reader.Next(CancellationToken.None).Result) != null)
                all.Add(block.Name + "/" + (block.Id ?? "-") + "/" + (block.Data ?? "-"));
            return string.Join(" ", all);
        }

        static string Event(long id, string subject)
        {
            return "id: " + id + "\nevent: row\ndata: {\"at\":\"now\",\"subject\":\"" + subject + "\",\"actor\":null,\"data\":{\"op\":\"insert\"}}\n\n";
        }

        public static void stream_is_read_however_it_is_cut()
        {
            const string text = ": hello\n\nid: 1\nevent: config\ndata: a\ndata: b\u00e9\n\nid:2\r\ndata:x\r\n\r\ndata\rid\r\rretry: 5\nid: 3\n\nid: 9\ndata: unfinished\n";
            const string found = "message/-/- config/1/a\nb\u00e9 message/2/x message// message/3/-";
            foreach (var portion in new[] { 1, 2, 3, 7, 1000 }) Check.Equal(found, ReadAll(text, portion));
        }

        public static void event_beyond_the_limit_is_refused_without_holding_it()
        {
            var bytes = Encoding.UTF8.GetBytes("data: " + new string('x', EventReader.BlockLimit));
            var error = Check.Throws<AggregateException>("large", () => new EventReader(new MemoryStream(bytes)).Next(CancellationToken.None).Wait());
            Check.True(error.InnerException is InvalidDataException, error.InnerException.ToString());
        }

        public static void watch_goes_on_after_the_last_event_and_tells_none_twice()
        {
            var requests = 0;
            var answers = new[]
            {
                // Nothing has been seen yet, and yet the next request knows where it began.
                Head + "id: 4\n\n",
                Head + Event(5, "a") + Event(6, "b") + "id: 7\n",
                RawServer.Problem(503, "not-fresh"),
                Head + "id: 6\n\n" + Event(6, "b") + Event(7, "c") + "event: end\ndata: {\"code\":\"stopping\",\"detail\":\"x\"}\n\n",
                Head + Event(9, "d"),
            };
            using (var stop = new CancellationTokenSource())
            using (var server = new RawServer(request => requests < answers.Length ? answers[requests++] : RawServer.Hang))
            using (var client = new TanistClient(server.Url))
            {
                var told = new List<string>();
                var options = new WatchOptions { Kinds = new[] { "row", "config" }, SubjectPrefix = "a/b" };
                var watch = client.WatchAsync(options, change =>
                {
                    told.Add(change.Id + change.Subject + change.Kind);
                    if (change.Id == 9) stop.Cancel();
                }, stop.Token);
                Check.Throws<OperationCanceledException>("watch", () => watch.GetAwaiter().GetResult());
                Check.Equal("5arow 6brow 7crow 9drow", string.Join(" ", told));
                var places = server.Requests.Select(Place).Take(5);
                Check.Equal("- 4 6 6 7", string.Join(" ", places));
                Check.True(server.Requests[0].StartsWith("GET /v1/events?kinds=row%2Cconfig&subject_prefix=a%2Fb HTTP"), server.Requests[0]);
            }
        }

        static string Place(string request)
        {
            var line = request.Split('\n').SingleOrDefault(header => header.ToLowerInvariant().StartsWith("last-event-id:"));
            return line == null ? "-" : line.Substring(14).Trim();
        }

        public static void watch_ends_when_events_are_lost_for_good()
        {
            foreach (var answer in new[]
            {
                RawServer.Problem(410, "events-pruned"), RawServer.Problem(400, "bad-request"),
                Head + "event: end\ndata: {\"code\":\"events-lost\",\"detail\":\"x\"}\n\n",
            })
                using (var server = new RawServer(request => answer))
                using (var client = new TanistClient(server.Url))
                    Check.Throws<ProblemException>(answer, () => client.WatchAsync(null, change => { }, CancellationToken.None).GetAwaiter().GetResult());
        }

        public static void stream_that_is_not_of_the_contract_is_told_as_such()
        {
            foreach (var answer in new[]
            {
                RawServer.Answer(200, "{}"), Head + "id: x\n\n", Head + "id: 1\ndata: 7\n\n", Head + "id: 1\ndata: {}\n\n", Head + "event: end\ndata: {}\n\n",
            })
                using (var server = new RawServer(request => answer))
                using (var client = new TanistClient(server.Url))
                    Check.Throws<UnexpectedAnswerException>(answer, () => client.WatchAsync(null, change => { }, CancellationToken.None).GetAwaiter().GetResult());
        }

        public static void handler_runs_on_the_callers_thread_and_its_exception_ends_the_watch()
        {
            using (var server = new RawServer(request => Head + Event(1, "a") + Event(2, "b")))
            using (var client = new TanistClient(server.Url))
            {
                var thread = 0;
                var told = 0;
                Check.Throws<FailedException>("watch", () => LoopContext.Run(() =>
                {
                    thread = Thread.CurrentThread.ManagedThreadId;
                    return client.WatchAsync(null, change =>
                    {
                        Check.Equal(thread, Thread.CurrentThread.ManagedThreadId);
                        if (++told == 2) throw new FailedException("enough");
                    }, CancellationToken.None);
                }));
                Check.Equal(2, told);
            }
        }

        public static void endless_trouble_is_asked_about_with_pauses()
        {
            using (var stop = new CancellationTokenSource(1500))
            using (var server = new RawServer(request => Head + "id: 1\n\nevent: end\ndata: {\"code\":\"not-fresh\"}\n\n"))
            using (var client = new TanistClient(server.Url))
            {
                Check.Throws<OperationCanceledException>("watch", () => client.WatchAsync(null, change => { }, stop.Token).GetAwaiter().GetResult());
                Check.True(server.Requests.Count > 3 && server.Requests.Count < 40, server.Requests.Count + " requests in 1.5 s");
            }
        }
    }
}
