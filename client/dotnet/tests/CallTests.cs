using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Threading;

namespace Tanist.Client.Tests
{
    /// <summary>The course of a call, against a server that says what no healthy machine says.</summary>
    static class CallTests
    {
        const string Done = "{\"position\":\"1.5\",\"results\":[{\"rows_affected\":1}]}";

        static TanistClient Client(string hosts, double seconds = 5)
        {
            return new TanistClient(new ClientOptions(hosts)
            {
                Deadline = TimeSpan.FromSeconds(seconds), AttemptTimeout = TimeSpan.FromSeconds(1),
            });
        }

        static string Key(string request)
        {
            return request.Split('\n').Single(line => line.ToLowerInvariant().StartsWith("idempotency-key:")).Trim();
        }

        static string ClosedPort()
        {
            var listener = new TcpListener(IPAddress.Loopback, 0);
            listener.Start();
            var port = ((IPEndPoint)listener.LocalEndpoint).Port;
            listener.Stop();
            return "http://127.0.0.1:" + port;
        }

        public static void write_is_repeated_with_the_same_key_until_it_is_answered()
        {
            var answers = new[]
            {
                "", RawServer.Problem(503, "outcome-unknown"), RawServer.Problem(503, "no-master"), RawServer.Problem(500, "internal"),
                RawServer.Answer(502, "<html>"), "HTTP/1.1 200 OK\r\ncontent-length: 999\r\nconnection: close\r\n\r\n{", RawServer.Answer(200, Done),
            };
            var count = 0;
            using (var server = new RawServer(request => request.Contains("/v1/execute") ? answers[count++] : RawServer.Problem(503, "no-master")))
            using (var client = Client(server.Url, 30))
            {
                Check.Equal("1.5", client.Execute("INSERT").Position);
                Check.Equal(answers.Length, server.Requests.Count);
                Check.Equal(1, server.Requests.Select(Key).Distinct().Count());
            }
        }

        public static void request_beyond_the_rate_is_sent_again()
        {
            var answers = new[] { RawServer.Problem(429, "rate-limited"), RawServer.Answer(429, "slower"), RawServer.Answer(200, Done) };
            var count = 0;
            using (var server = new RawServer(request => request.Contains("/v1/execute") ? answers[count++] : RawServer.Problem(503, "no-master")))
            using (var client = Client(server.Url, 30))
            {
                Check.Equal("1.5", client.Execute("INSERT").Position);
                Check.Equal(answers.Length, server.Requests.Count);
                Check.Equal(1, server.Requests.Select(Key).Distinct().Count());
            }
        }

        public static void two_writes_have_two_keys_and_the_callers_own_is_used()
        {
            using (var server = new RawServer(request => RawServer.Answer(200, Done)))
            using (var client = Client(server.Url))
            {
                client.Execute("INSERT");
                client.Execute("INSERT");
                client.Execute(new[] { new Statement("INSERT") }, new WriteOptions { IdempotencyKey = "order-7" });
                Check.Equal(3, server.Requests.Select(Key).Distinct().Count());
                Check.True(Key(server.Requests[2]).EndsWith("order-7"), "own key");
                foreach (var bad in new[] { "", "a b", "\u00e9", "a\nb", new string('x', 201) })
                    Check.Throws<ArgumentException>(bad, () => client.Execute(new[] { new Statement("I") }, new WriteOptions { IdempotencyKey = bad }));
                Check.Equal(3, server.Requests.Count);
            }
        }

        public static void write_that_may_have_arrived_is_of_unknown_outcome_at_the_deadline()
        {
            using (var server = new RawServer(request => ""))
            using (var client = Client(server.Url, 0.5))
            {
                var error = Check.Throws<OutcomeUnknownException>("write", () => client.Execute("INSERT"));
                Check.True(Key(server.Requests[0]).EndsWith(error.IdempotencyKey), error.Message);
                Check.Throws<UnavailableException>("read", () => client.Query("SELECT"));
                Check.Throws<UnconfirmedException>("handover", () => client.Promote("pc-2"));
            }
        }

        public static void write_that_never_arrived_is_not_of_unknown_outcome()
        {
            using (var client = Client(ClosedPort() + "," + ClosedPort(), 0.5))
                Check.Throws<UnavailableException>("refused connection", () => client.Execute("INSERT"));
            using (var client = Client("no-such-host.invalid:80", 0.5))
                Check.Throws<UnavailableException>("unknown name", () => client.Execute("INSERT"));
            using (var server = new RawServer(request => RawServer.Problem(503, "no-master")))
            using (var client = Client(server.Url, 2))
            {
                Check.Throws<UnavailableException>("no master", () => client.Execute("INSERT"));
                Check.True(server.Requests.Count > 2 && server.Requests.Count < 60, server.Requests.Count + " attempts in 2 s");
            }
        }

        public static void refusal_for_good_is_told_at_once_with_all_that_was_said()
        {
            const string body = "{\"type\":\"urn:x\",\"title\":\"t\",\"status\":409,\"code\":\"constraint\",\"detail\":\"UNIQUE\",\"statement\":1,\"sqlite_code\":2067}";
            using (var server = new RawServer(request => RawServer.Answer(409, body)))
            using (var client = Client(server.Url))
            {
                var problem = Check.Throws<ProblemException>("constraint", () => client.Execute("INSERT")).Problem;
                Check.Equal("constraint 409 UNIQUE 1 2067", string.Join(" ", problem.Code, problem.Status, problem.Detail, problem.Statement, problem.SqliteCode));
                Check.Equal(1, server.Requests.Count);
            }
        }

        public static void answers_that_are_not_of_the_contract_are_told_as_such()
        {
            foreach (var answer in new[]
            {
                RawServer.Answer(200, ""), RawServer.Answer(200, "null"), RawServer.Answer(404, "null"), RawServer.Answer(200, "[]"), RawServer.Answer(200, "{}"), RawServer.Answer(200, "{\"position\":1,\"results\":[]}"),
                RawServer.Answer(200, "{\"position\":\"1.1\",\"results\":[7]}"), RawServer.Answer(404, "not here"), RawServer.Answer(404, "{}"), RawServer.Answer(404, "[]"),
                "HTTP/1.1 200 OK\r\ncontent-length: " + (Http.AnswerLimit + 1) + "\r\n\r\n",
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntanist-position: \u00ff\r\ncontent-length: 3\r\n\r\n{}}",
            })
                using (var server = new RawServer(request => answer))
                using (var client = Client(server.Url))
                    Check.Throws<UnexpectedAnswerException>(answer, () => client.Query("SELECT"));
        }

        public static void damaged_answers_are_judged_and_never_thrown_at_the_application()
        {
            var random = new Random(3);
            var request = new Request { Path = "/v1/query?consistency=local" };
            const string problem = "{\"status\":503,\"code\":\"outcome-unknown\",\"detail\":\"d\",\"statement\":0}";
            const string location = "http://127.0.0.1:8080/v1/query?consistency=local";
            var endings = new int[6];
            for (var i = 0; i < 50000; i++)
            {
                var status = new[] { 200, 204, 304, 307, 308, 400, 409, 500, 502, 503, 507, random.Next(0, 1000) }[random.Next(12)];
                var answer = new Answer
                {
                    Host = "http://127.0.0.1:1", Status = status, Body = Encoding.UTF8.GetBytes(Damaged(random, problem)),
                    Location = Damaged(random, location), RetryAfter = Damaged(random, "17"),
                };
                endings[(int)Attempt.Judge(request, answer).Ending]++;
            }
            foreach (var ending in new[] { Ending.Done, Ending.Redirect, Ending.Refused, Ending.Unknown, Ending.Final })
                Check.True(endings[(int)ending] > 0, "some answers are " + ending);
        }

        static string Damaged(Random random, string good)
        {
            var text = new StringBuilder(good);
            for (var change = random.Next(0, 4); change > 0 && text.Length > 0; change--)
            {
                var at = random.Next(text.Length);
                var how = random.Next(4);
                if (how == 0) text.Remove(at, random.Next(text.Length - at) + 1);
                else if (how == 1) text[at] = (char)random.Next(0, 300);
                else if (how == 2) text.Insert(at, text[random.Next(text.Length)]);
                else text.Insert(at, new[] { "%", "//", "null", "\u0000", "[", ":", "@", "..", "\\" }[random.Next(9)]);
            }
            return text.ToString();
        }

        public static void redirect_is_followed_with_key_and_body()
        {
            using (var master = new RawServer(request => RawServer.Answer(200, Done)))
            using (var backup = new RawServer(request => RawServer.Answer(307, "", "location: " + master.Url + "/v1/execute\r\n")))
            using (var client = Client(backup.Url))
            {
                client.Execute("INSERT", 7);
                Check.Equal(Key(backup.Requests[0]), Key(master.Requests[0]));
                Check.True(master.Requests[0].EndsWith("{\"statements\":[{\"sql\":\"INSERT\",\"params\":[7]}]}"), master.Requests[0]);
                client.Execute("INSERT");
                Check.Equal(1, backup.Requests.Count);
                Check.Equal(master.Url, client.LinkOf(Need.Master).Host);
            }
        }

        public static void redirects_that_lead_nowhere_are_not_followed()
        {
            foreach (var location in new[] { "", "location: ftp://x:1/v1/query\r\n", "location: /v1/query\r\n", "location: http://127.0.0.1:1/v1/other\r\n", "location: ://\r\n" })
                using (var server = new RawServer(request => RawServer.Answer(307, "", location)))
                using (var client = Client(server.Url, 0.3))
                {
                    Check.Throws<UnavailableException>(location, () => client.Query("SELECT"));
                    Check.Equal(1, client.KnownHosts.Count);
                }
        }

        public static void silent_machine_costs_an_attempt_and_not_the_deadline()
        {
            using (var silent = new RawServer(request => RawServer.Hang))
            using (var good = new RawServer(request => RawServer.Answer(200, Done, "tanist-position: 3.4\r\n")))
            using (var client = Client(silent.Url + "," + good.Url, 10))
            {
                var watch = Stopwatch.StartNew();
                client.Query(new[] { new Statement("SELECT") }, ReadOptions.Local);
                Check.True(watch.Elapsed < TimeSpan.FromSeconds(4), "took " + watch.Elapsed);
                client.Query(new[] { new Statement("SELECT") }, ReadOptions.Local);
                Check.True(good.Requests.Last().ToLowerInvariant().Contains("tanist-min-position: 3.4\r"), good.Requests.Last());
                Check.True(good.Requests.Last().Contains("POST /v1/query?consistency=local "), good.Requests.Last());
                Check.Equal("3.4", client.Position);
            }
        }

        public static void machine_that_takes_no_connection_costs_a_quarter_of_the_connect_timeout()
        {
            // A full queue of connections: further ones are neither taken nor refused, as by a machine without power.
            var full = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            var waiting = new List<Socket>();
            try
            {
                full.Bind(new IPEndPoint(IPAddress.Loopback, 0));
                full.Listen(1);
                for (var i = 0; i < 4; i++)
                {
                    var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { Blocking = false };
                    waiting.Add(socket);
                    try
                    {
                        socket.Connect(full.LocalEndPoint);
                    }
                    catch (SocketException error) when (error.SocketErrorCode == SocketError.WouldBlock || error.SocketErrorCode == SocketError.InProgress)
                    {
                    }
                }
                var stuck = "http://127.0.0.1:" + ((IPEndPoint)full.LocalEndPoint).Port;
                var connect = TimeSpan.FromSeconds(4);
                using (var good = new RawServer(request => RawServer.Answer(200, Done)))
                using (var client = new TanistClient(new ClientOptions(stuck + "," + good.Url) { ConnectTimeout = connect }))
                {
                    var watch = Stopwatch.StartNew();
                    client.Query(new[] { new Statement("SELECT") }, ReadOptions.Local);
                    Check.True(watch.Elapsed > TimeSpan.FromSeconds(1) && watch.Elapsed < connect, "took " + watch.Elapsed);
                }
                using (var client = new TanistClient(new ClientOptions(stuck) { ConnectTimeout = connect, Deadline = TimeSpan.FromSeconds(1) }))
                    Check.Throws<UnavailableException>("nothing was sent", () => client.Execute("INSERT"));
            }
            finally
            {
                foreach (var socket in waiting) socket.Dispose();
                full.Dispose();
            }
        }

        public static void token_ends_a_call_and_disposal_ends_all()
        {
            using (var server = new RawServer(request => RawServer.Hang))
            using (var stop = new CancellationTokenSource())
            using (var client = Client(server.Url, 60))
            {
                var call = client.ExecuteAsync(new[] { new Statement("I") }, null, stop.Token);
                var other = client.QueryAsync("S");
                stop.CancelAfter(100);
                var watch = Stopwatch.StartNew();
                Check.Throws<OperationCanceledException>("token", () => call.GetAwaiter().GetResult());
                client.Dispose();
                Check.Throws<OperationCanceledException>("disposed", () => other.GetAwaiter().GetResult());
                Check.True(watch.Elapsed < TimeSpan.FromSeconds(3), "took " + watch.Elapsed);
                Check.Throws<ObjectDisposedException>("afterwards", () => client.Query("S"));
            }
        }

        public static void calls_beyond_the_limit_wait_within_their_deadline()
        {
            using (var server = new RawServer(request => RawServer.Hang))
            using (var client = new TanistClient(new ClientOptions(server.Url) { MaxConcurrent = 2, Deadline = TimeSpan.FromSeconds(20) }))
            {
                client.QueryAsync("S");
                client.QueryAsync("S");
                Check.True(SpinWait.SpinUntil(() => { lock (server.Requests) return server.Requests.Count == 2; }, 10000), "both are under way");
                var read = new ReadOptions { Deadline = TimeSpan.FromMilliseconds(200) };
                var error = Check.Throws<UnavailableException>("third", () => client.Query(new[] { new Statement("S") }, read));
                Check.Equal("2 calls are under way already", error.Last);
            }
        }

        public static void token_goes_with_every_request_and_is_never_shown()
        {
            const string unauthorized = "{\"title\":\"t\",\"status\":401,\"code\":\"unauthorized\",\"detail\":\"a token\"}";
            var with = 0;
            var without = 0;
            Func<string, string> answer = request =>
            {
                var allowed = request.ToLowerInvariant().Contains("\r\nauthorization: bearer secret-7\r\n");
                if (allowed) Interlocked.Increment(ref with);
                else Interlocked.Increment(ref without);
                return allowed ? RawServer.Answer(200, Done) : RawServer.Answer(401, unauthorized);
            };
            using (var server = new RawServer(answer))
            {
                using (var client = new TanistClient(new ClientOptions(server.Url) { Token = "secret-7" })) client.Execute("INSERT");
                Check.True(with >= 1 && without == 0, "all with the token");
                using (var client = new TanistClient(server.Url))
                    Check.Equal("unauthorized", Check.Throws<ProblemException>("no token", () => client.Execute("INSERT")).Problem.Code);
            }
            foreach (var bad in new[] { "", "a b", "secret\n", "secret\u00e9", new string('x', 501) })
            {
                var error = Check.Throws<ArgumentException>("token", () => new TanistClient(new ClientOptions("a:1") { Token = bad }));
                Check.True(!error.Message.Contains("secret"), error.Message);
            }
        }

        public static void connection_is_kept_for_the_next_call()
        {
            var connections = 0;
            using (var server = new RawServer(request => RawServer.Answer(200, Done)))
            using (var client = Client(server.Url))
            {
                for (var i = 0; i < 50; i++) client.Execute("INSERT");
                connections = server.Connections;
            }
            // The first call connects to see whether anybody is there, and asks for the members beside.
            Check.True(connections <= 5, connections + " connections for 50 calls");
        }
    }
}
