using System;
using System.Collections.Generic;
using System.Linq;

namespace Tanist.Client.Tests
{
    /// <summary>The same situations as in the Rust client's <c>hosts.rs</c>.</summary>
    static class HostsTests
    {
        const string A = "http://a:1", B = "http://b:2", C = "http://c:3";
        static readonly TimeSpan Now = TimeSpan.FromSeconds(1000);

        static TimeSpan Ms(double ms) { return TimeSpan.FromTicks((long)(ms * TimeSpan.TicksPerMillisecond)); }

        static Hosts Three() { return new Hosts(Hosts.Parse("a:1,b:2, http://c:3/ "), 7); }

        static Hosts One() { return new Hosts(new[] { A }, 9); }

        static void Down(Hosts hosts, string host, TimeSpan now) { hosts.OnTrouble(host, Trouble.Unreachable, null, now); }

        static string Pick(Hosts hosts, Need need, TimeSpan now)
        {
            TimeSpan wait;
            return hosts.Pick(need, now, out wait);
        }

        static TimeSpan Wait(Hosts hosts, TimeSpan now)
        {
            TimeSpan wait;
            Check.Equal(null, hosts.Pick(Need.Master, now, out wait));
            return wait;
        }

        static void ShortAtMost(TimeSpan wait)
        {
            Check.True(wait > TimeSpan.Zero && wait <= Ms(12.5), "waits " + wait);
        }

        public static void list_is_read_and_nonsense_is_named()
        {
            Check.Equal("http://a:1 http://b:2", string.Join(" ", Hosts.Parse("a:1,http://b:2/")));
            Check.Equal("http://[::1]:80 https://b:2", string.Join(" ", Hosts.Parse("[::1]:80,https://b:2")));
            foreach (var bad in new[] { null, "", " , ", "a", "a:x", "a:0", "a:65536", "a:-1", "a: 1", ":1", "ftp://a:1", "https://a", "http://a:1/path", "a b:1", "x@a:1", "a\u00e9:1", "a..b:1" })
                Check.Throws<ArgumentException>(bad, () => Hosts.Parse(bad));
        }

        public static void master_is_asked_first_and_others_in_turn_after_it_fails()
        {
            var hosts = Three();
            Check.Equal(A, Pick(hosts, Need.Master, Now));
            hosts.OnMaster(C);
            Check.Equal(C, Pick(hosts, Need.Master, Now));
            Check.Equal(C, Pick(hosts, Need.Master, Now));
            Down(hosts, C, Now);
            Check.Equal(B, Pick(hosts, Need.Master, Now));
            Down(hosts, B, Now);
            Check.Equal(A, Pick(hosts, Need.Master, Now));
            Down(hosts, A, Now);
            var wait = Wait(hosts, Now);
            ShortAtMost(wait);
            Check.True(Pick(hosts, Need.Master, Now + wait) != null, "the pause ends");
        }

        public static void host_that_serves_a_master_request_is_the_master_from_then_on()
        {
            var hosts = Three();
            hosts.OnServed(B, Need.Master);
            Check.Equal(B, Pick(hosts, Need.Master, Now));
            hosts.OnServed(C, Need.Any);
            Check.Equal(B, Pick(hosts, Need.Master, Now));
        }

        public static void any_machine_means_the_first_of_the_list_that_has_not_just_failed()
        {
            var hosts = Three();
            hosts.OnMaster(C);
            Check.Equal(A, Pick(hosts, Need.Any, Now));
            Check.Equal(A, Pick(hosts, Need.Any, Now));
            Down(hosts, A, Now);
            Check.Equal(B, Pick(hosts, Need.Any, Now));
            Check.Equal(A, Pick(hosts, Need.Any, Now + Hosts.PauseMax));
        }

        public static void connection_is_waited_for_briefly_where_others_can_be_asked_and_longer_the_longer_it_fails()
        {
            var hosts = Three();
            var second = Ms(1000);
            Check.Equal(Ms(250), hosts.ConnectPatience(A, second, Now));
            Down(hosts, A, Now);
            Check.Equal(Ms(50), hosts.ConnectPatience(A, second, Now + Ms(10)));
            Down(hosts, A, Now + Ms(60));
            Down(hosts, A, Now + Ms(400));
            Check.Equal(Ms(500), hosts.ConnectPatience(A, second, Now + Ms(500)));
            Down(hosts, A, Now + Ms(1000));
            Check.Equal(second, hosts.ConnectPatience(A, second, Now + Ms(1500)));
            Check.Equal(Ms(250), hosts.ConnectPatience(B, second, Now));
            hosts.OnTrouble(B, Trouble.Refusing, null, Now);
            Check.Equal(Ms(250), hosts.ConnectPatience(B, second, Now + Ms(10)));
            Check.Equal(second, One().ConnectPatience(A, second, Now));
        }

        public static void retries_overshoot_an_outage_of_any_length_by_little()
        {
            foreach (var outage in new[] { 5, 50, 200, 400, 1000, 2000 })
            {
                var hosts = One();
                var now = Now;
                var attempts = 0;
                while (now < Now + Ms(outage))
                {
                    TimeSpan wait;
                    if (hosts.Pick(Need.Master, now, out wait) == null) now += wait;
                    else
                    {
                        attempts++;
                        Down(hosts, A, now);
                    }
                }
                var late = now - Now - Ms(outage);
                Check.True(late <= Ms(outage / 2.0 + 12.5), outage + " ms outage: " + late + " late");
                Check.True(attempts <= 40, outage + " ms outage: " + attempts + " attempts");
            }
        }

        public static void pauses_grow_to_a_limit_and_begin_anew_after_an_answer()
        {
            var hosts = One();
            var now = Now;
            var longest = TimeSpan.Zero;
            for (var i = 0; i < 60; i++)
            {
                Down(hosts, A, now);
                var wait = Wait(hosts, now);
                if (wait > longest) longest = wait;
                now += wait;
            }
            Check.Equal(Hosts.PauseMax, longest);
            hosts.OnServed(A, Need.Master);
            Down(hosts, A, now);
            ShortAtMost(Wait(hosts, now));
        }

        public static void pauses_of_two_clients_differ()
        {
            var waits = new HashSet<TimeSpan>();
            for (ulong seed = 1; seed < 50; seed++)
            {
                var hosts = new Hosts(new[] { A }, seed * 7919);
                Down(hosts, A, Now);
                waits.Add(Wait(hosts, Now));
            }
            Check.True(waits.Count > 10, waits.Count + " different pauses among 49 clients");
        }

        public static void retry_after_shortens_a_pause_and_never_lengthens_it()
        {
            var hosts = One();
            hosts.OnTrouble(A, Trouble.Refusing, TimeSpan.FromHours(1), Now);
            ShortAtMost(Wait(hosts, Now));
            var later = Now + Ms(900);
            hosts.OnTrouble(A, Trouble.Refusing, TimeSpan.Zero, later);
            Check.True(Wait(hosts, later) <= Hosts.PauseMin, "as short as asked for");
        }

        public static void busy_master_is_waited_for_and_not_asked_for_elsewhere()
        {
            var hosts = Three();
            hosts.OnServed(B, Need.Master);
            hosts.OnTrouble(B, Trouble.Busy, null, Now);
            var wait = Wait(hosts, Now);
            Check.Equal(B, Pick(hosts, Need.Master, Now + wait));
        }

        public static void redirect_goes_at_once_to_a_host_that_was_alive_but_not_to_one_that_was_not()
        {
            var hosts = Three();
            hosts.OnTrouble(B, Trouble.Refusing, null, Now);
            hosts.OnRedirect(A, B, Now);
            Check.Equal(B, Pick(hosts, Need.Master, Now));
            Down(hosts, B, Now);
            hosts.OnRedirect(C, B, Now);
            Wait(hosts, Now);
        }

        public static void hosts_that_redirect_to_each_other_are_not_asked_without_a_pause()
        {
            var hosts = new Hosts(Hosts.Parse("a:1,b:2"), 5);
            var attempts = 0;
            string host;
            while ((host = Pick(hosts, Need.Master, Now)) != null)
            {
                Check.True(++attempts < 10, "to and fro without a pause");
                hosts.OnRedirect(host, host == A ? B : A, Now);
            }
            Check.True(attempts >= 2, attempts + " attempts");
        }

        public static void late_news_of_the_old_master_does_not_depose_the_new_one()
        {
            var hosts = Three();
            hosts.OnServed(A, Need.Master);
            Down(hosts, A, Now);
            hosts.OnServed(B, Need.Master);
            Down(hosts, A, Now + Ms(1));
            Check.Equal(B, Pick(hosts, Need.Master, Now + Ms(1)));
        }

        public static void learned_hosts_come_and_go_but_given_ones_stay()
        {
            var hosts = Three();
            hosts.OnMembers(new[] { "http://d:4", A });
            Check.Equal("http://a:1 http://b:2 http://c:3 http://d:4", string.Join(" ", hosts.All));
            hosts.OnMembers(new[] { "http://e:5" });
            Check.Equal("http://a:1 http://b:2 http://c:3 http://e:5", string.Join(" ", hosts.All));
            hosts.OnMembers(Enumerable.Range(0, 1000).Select(i => "http://x" + i + ":1").ToArray());
            Check.Equal(3 + Hosts.LearnedMax, hosts.All.Count);
        }
    }
}
