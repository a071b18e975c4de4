@echo off
rem on_promote: this machine takes the address that clients know.
rem Needs an administrator's rights, as the Windows service has them when it runs as LocalSystem.
rem Settings: edit here, or set them in the environment of `tanist run`.
if not defined VIP set VIP=192.168.10.50
if not defined VIP_MASK set VIP_MASK=255.255.255.0
if not defined VIP_DEVICE set VIP_DEVICE=Ethernet

rem Again after a failure or a restart: then it is there already.
netsh interface ipv4 delete address name="%VIP_DEVICE%" address=%VIP% store=active >nul 2>nul

rem Windows tells the network by itself where a new address is (gratuitous ARP), after it has looked whether another machine
rem has it. store=active: it is gone after a restart of the computer, which must not come up with it.
netsh interface ipv4 add address name="%VIP_DEVICE%" address=%VIP% mask=%VIP_MASK% store=active skipassource=true
if errorlevel 1 exit /b 1
echo %TANIST_MEMBER% has %VIP% on %VIP_DEVICE% (term %TANIST_TERM%)
